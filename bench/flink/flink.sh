#!/usr/bin/env bash
# Apache Flink on the benchmark queries, per CPU-second, as JSON lines. README.md explains.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: flink.sh COMMAND [ARGUMENT...]

  setup               fetch Flink from the Python package index and unpack its jars (330 MB)
  build               compile the test programs against them
  run [QUERY...]      throughput; queries: q0 q1 q2 count q5 q7 q8 wc (default: all)
  latency [RATE...]   latency of the keyed count at RATE records/s (default: 100000 200000)
  all                 setup, build, run

environment
  FLINK_WORK         where everything is kept      (bench-out/flink in the repository)
  FLINK_VERSION      release                       (2.3.0)
  FLINK_HEAP         size of the Java heap         (4g)
  FLINK_PARALLELISM  parallelisms to run with      ("1 2")
  FLINK_SECONDS      length of a run               (13; latency 15)
  FLINK_WARM         part of it that is not counted (7; latency 6)
  FLINK_BUFFER_MS    latency only: buffer time-outs ("0 1")
USAGE
}

die() {
  echo "flink.sh: $*" >&2
  exit 1
}

need() {
  command -v "$1" >/dev/null || die "$1 is not installed: $2"
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${FLINK_WORK:-$here/../../bench-out/flink}
mkdir -p "$work" || die "cannot make $work; set FLINK_WORK to a folder that can be written"
work=$(cd "$work" && pwd)
export FLINK_WORK=$work
version=${FLINK_VERSION:-2.3.0}
home=$work/flink-$version
jar=$work/nx-$version.jar

# The two packages hold all of Flink: one its jars, the other its configuration.
setup() {
  if [ -f "$home/complete" ]; then
    echo "$home is there" >&2
    return
  fi
  need python3 "it carries pip, which fetches Flink"
  local fetched=$work/fetched unpacked=$work/unpacked
  rm -rf "$unpacked" "$home"
  mkdir -p "$fetched" "$unpacked" "$home/conf"

  compgen -G "$fetched/apache[_-]flink[_-]libraries-$version.tar.gz" >/dev/null ||
    python3 -m pip download --quiet --no-deps --no-binary :all: --dest "$fetched" "apache-flink-libraries==$version" >&2
  compgen -G "$fetched/apache_flink-$version-*.whl" >/dev/null ||
    python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$fetched" "apache-flink==$version" >&2

  tar -xzf "$fetched"/apache[_-]flink[_-]libraries-"$version".tar.gz -C "$unpacked"
  mv "$unpacked"/*/deps/lib "$home/"
  python3 -m zipfile -e "$(compgen -G "$fetched/apache_flink-$version-*.whl" | head -n 1)" "$unpacked/wheel"
  mv "$unpacked/wheel/pyflink/conf/config.yaml" "$home/conf/"
  rm -rf "$unpacked" "$fetched"
  touch "$home/complete"
}

ready() {
  [ -f "$jar" ] || die "the test programs are not built: run '$0 setup', then '$0 build'"
  need java "install Java 17 or later"
}

class_path() {
  local IFS=:
  echo "$*"
}

build() {
  [ -f "$home/complete" ] || die "Flink is not there: run '$0 setup' first"
  need javac "install a Java development kit, 17 or later"
  local classes=$work/classes
  rm -rf "$classes"
  mkdir -p "$classes"
  javac -nowarn -d "$classes" -cp "$(class_path "$home"/lib/*.jar)" "$here"/java/nx/*.java
  (cd "$classes" && jar cf "$jar" .)
}

# One job in a fresh JVM, with a cluster of one process inside it.
job() {
  local opens
  # Flink reaches into the JDK; its own configuration says which packages that takes.
  opens=$(sed -n 's/^ *all: *//p' "$home/conf/config.yaml" | head -n 1)
  # shellcheck disable=SC2086 # several options in one string
  timeout 120 java -Xms"${FLINK_HEAP:-4g}" -Xmx"${FLINK_HEAP:-4g}" -XX:+UseG1GC $opens \
    -Dlog4j.configurationFile="file://$here/log4j2.properties" \
    -cp "$jar:$(class_path "$home"/lib/*.jar)" nx.Jobs --backend hashmap "$@"
}

# Prints the line that begins with $1 out of a job's output, or the output and an error.
result_of() {
  local output
  output=$(job "${@:2}" 2>&1) || { echo "$output" | tail -n 20 >&2; die "Flink failed: ${*:2}"; }
  grep "^$1 " <<<"$output" || { echo "$output" | tail -n 20 >&2; die "Flink gave no result: ${*:2}"; }
}

# The value of "$1=VALUE" in the line on standard input, without its unit.
field() {
  tr ' ' '\n' | sed -n "s/^$1=\([0-9.]*\).*/\1/p" | head -n 1
}

run() {
  local query parallelism
  ready
  [ $# -gt 0 ] || set -- q0 q1 q2 count q5 q7 q8 wc
  for query in "$@"; do
    case $query in q0 | q1 | q2 | count | q5 | q7 | q8 | wc) ;; *) die "no query $query" ;; esac
  done
  for query in "$@"; do
    for parallelism in ${FLINK_PARALLELISM:-1 2}; do
      # The source of the word count counts lines; they have ten words each.
      local name=$query each=1 line
      [ "$query" = wc ] && name=wcmem each=10
      line=$(result_of RESULT --q "$name" --par "$parallelism" --secs "${FLINK_SECONDS:-13}" --warm "${FLINK_WARM:-7}")
      grep -q ' ev_per_s=' <<<"$line" || die "the run was too short: raise FLINK_SECONDS"
      awk -v query="$query" -v parallelism="$parallelism" -v version="$version" -v each="$each" \
        -v rate="$(field ev_per_s <<<"$line")" -v per_cpu="$(field ev_per_cpu_s <<<"$line")" \
        -v cores="$(field cores_used <<<"$line")" -v seconds="$(field window <<<"$line")" 'BEGIN {
          printf "{\"benchmark\":\"flink\",\"version\":\"%s\",\"query\":\"%s\",\"parallelism\":%d,\"state\":\"heap\",", version, query, parallelism
          printf "\"seconds\":%s,\"events_per_second\":%.0f,\"events_per_cpu_second\":%.0f,\"cores_used\":%s}\n", seconds, rate * each, per_cpu * each, cores
        }'
    done
  done
}

latency() {
  local rate buffer parallelism
  ready
  [ $# -gt 0 ] || set -- 100000 200000
  for rate in "$@"; do
    for parallelism in ${FLINK_PARALLELISM:-1}; do
      for buffer in ${FLINK_BUFFER_MS:-0 1}; do
        local line
        line=$(result_of LAT --q latcount --par "$parallelism" --rate "$rate" --buf "$buffer" --secs "${FLINK_SECONDS:-15}" --warm "${FLINK_WARM:-6}")
        awk -v rate="$rate" -v parallelism="$parallelism" -v version="$version" -v buffer="$buffer" -v n="$(field n <<<"$line")" \
          -v p50="$(field p50 <<<"$line")" -v p90="$(field p90 <<<"$line")" -v p99="$(field p99 <<<"$line")" \
          -v p999="$(field p99.9 <<<"$line")" -v p9999="$(field p99.99 <<<"$line")" -v max="$(field max <<<"$line")" 'BEGIN {
            printf "{\"benchmark\":\"flink-latency\",\"version\":\"%s\",\"rate\":%d,\"parallelism\":%d,\"buffer_timeout_ms\":%d,\"samples\":%d,", version, rate, parallelism, buffer, n
            printf "\"p50_us\":%.0f,\"p90_us\":%.0f,\"p99_us\":%.0f,\"p999_us\":%.0f,\"p9999_us\":%.0f,\"max_us\":%.0f}\n", p50 * 1000, p90 * 1000, p99 * 1000, p999 * 1000, p9999 * 1000, max * 1000
          }'
      done
    done
  done
}

case ${1:-help} in
  setup) setup ;;
  build) build ;;
  run) run "${@:2}" ;;
  latency) latency "${@:2}" ;;
  all) setup && build && run ;;
  help | --help | -h) usage ;;
  *) usage >&2 && exit 2 ;;
esac
