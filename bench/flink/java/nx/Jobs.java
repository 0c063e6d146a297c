package nx;

import java.time.Duration;
import java.util.*;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.*;
import org.apache.flink.api.common.state.*;
import org.apache.flink.api.common.typeinfo.*;
import org.apache.flink.api.java.tuple.*;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.file.src.FileSource;
import org.apache.flink.connector.file.src.reader.TextLineInputFormat;
import org.apache.flink.core.fs.Path;
import org.apache.flink.streaming.api.datastream.*;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.*;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.streaming.api.functions.windowing.*;
import org.apache.flink.streaming.api.windowing.assigners.*;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;
import org.apache.flink.api.common.functions.OpenContext;

/** DataStream benchmark jobs. --q NAME --par N --backend hashmap|rocksdb --cp MS(0=off) --buf MS --evrate R --secs S --warm W --session 0|1 ... */
public class Jobs {
  static Map<String, String> A = new HashMap<>();
  static String root() { return new java.io.File(System.getenv().getOrDefault("FLINK_WORK", "bench-out/flink")).getAbsolutePath(); }
  static String g(String k, String d) { return A.getOrDefault(k, d); }

  public static Configuration conf() {
    Configuration c = new Configuration();
    boolean rocks = g("backend", "hashmap").equals("rocksdb");
    c.setString("state.backend.type", g("backend", "hashmap"));
    if (rocks) c.setString("execution.checkpointing.incremental", "true");
    long cp = Long.parseLong(g("cp", "0"));
    if (cp > 0) { c.setString("execution.checkpointing.interval", cp + "ms"); c.setString("execution.checkpointing.mode", "EXACTLY_ONCE"); }
    c.setString("execution.checkpointing.dir", "file://" + g("cpdir", root() + "/out/ckpt"));
    c.setString("execution.checkpointing.storage", "filesystem");
    c.setString("execution.buffer-timeout.interval", g("buf", "100") + "ms");
    c.setString("pipeline.object-reuse", "true");
    c.setString("pipeline.auto-watermark-interval", g("wm", "200") + "ms");
    if (g("session", "0").equals("0")) {
      c.setString("taskmanager.memory.managed.size", g("managed", "1g"));
      c.setString("taskmanager.memory.network.min", "256m"); c.setString("taskmanager.memory.network.max", "256m");
      c.setString("taskmanager.numberOfTaskSlots", g("par", "1"));
      c.setString("rest.port", g("restport", "0"));
      c.setString("rest.bind-port", "0");
    }
    return c;
  }

  public static StreamExecutionEnvironment env() {
    int par = Integer.parseInt(g("par", "1"));
    StreamExecutionEnvironment e = g("session", "0").equals("1") ? StreamExecutionEnvironment.getExecutionEnvironment(conf()) : StreamExecutionEnvironment.createLocalEnvironment(par, conf());
    e.setParallelism(par);
    return e;
  }

  static NxSource.Opt opt(String label) {
    NxSource.Opt o = new NxSource.Opt(); o.label = label; o.warm = Double.parseDouble(g("warm", "8")); o.secs = Double.parseDouble(g("secs", "20"));
    o.rate = Double.parseDouble(g("rate", "0")); o.batch = Integer.parseInt(g("batch", "32")); o.limit = Long.parseLong(g("limit", String.valueOf(Long.MAX_VALUE))); return o;
  }

  static class EvFn implements NxSource.Fn<Gen.Event> {
    final Gen g; EvFn(double r) { g = new Gen(r); }
    public Gen.Event gen(long n, long st, Gen.Rng r) { return g.event(n, r); }
    public long ts(long n, long st) { return g.ts(n); }
  }
  /** latency records: (bid auction key, scheduled emission nanoTime) */
  static class LatFn implements NxSource.Fn<Tuple2<Long, Long>> {
    public Tuple2<Long, Long> gen(long n, long st, Gen.Rng r) { long m = n / 46 * 50 + 4 + n % 46; Gen.rng(m, r); return Tuple2.of(Gen.bidAuction(m, r), st); }
    public long ts(long n, long st) { return st / 1_000_000; }
  }
  static class WordFn implements NxSource.Fn<String> {
    static final String[] LINES = lines();
    static String[] lines() {
      int v = 100_000; double[] cdf = new double[v]; double s = 0; for (int i = 0; i < v; i++) { s += 1.0 / (i + 1); cdf[i] = s; }
      Gen.Rng r = new Gen.Rng(); r.s = 7; String[] o = new String[65536];
      for (int i = 0; i < o.length; i++) { StringBuilder sb = new StringBuilder(); for (int j = 0; j < 10; j++) {
        double u = (r.next() >>> 11) / (double) (1L << 53) * s; int k = Arrays.binarySearch(cdf, u); if (k < 0) k = -k - 1; k += 26; if (j > 0) sb.append(' '); while (k > 0) { sb.append((char) ('a' + k % 26)); k /= 26; } }
        o[i] = sb.toString(); }
      return o;
    }
    public String gen(long n, long st, Gen.Rng r) { return LINES[(int) (n & 65535)]; }
    public long ts(long n, long st) { return 0; }
  }

  static final TypeInformation<Tuple2<Long, Long>> T2 = Types.TUPLE(Types.LONG, Types.LONG);
  static final TypeInformation<Tuple3<Long, Long, Long>> T3 = Types.TUPLE(Types.LONG, Types.LONG, Types.LONG);

  /** running count per key in ValueState */
  static class Count<K> extends KeyedProcessFunction<K, K, Tuple2<K, Long>> {
    transient ValueState<Long> st;
    public void open(OpenContext c) { st = getRuntimeContext().getState(new ValueStateDescriptor<>("c", Types.LONG)); }
    public void processElement(K v, Context x, Collector<Tuple2<K, Long>> out) throws Exception { Long c = st.value(); long n = c == null ? 1 : c + 1; st.update(n); out.collect(Tuple2.of(v, n)); }
  }
  static class CountAgg<T> implements AggregateFunction<T, Long, Long> {
    public Long createAccumulator() { return 0L; } public Long add(T v, Long a) { return a + 1; } public Long getResult(Long a) { return a; } public Long merge(Long a, Long b) { return a + b; }
  }
  /** splits lines, meters words */
  static class Split extends RichFlatMapFunction<String, String> {
    final boolean meter; final String label; final double warm, secs; long n; int sub;
    Split(boolean m, String l, double w, double s) { meter = m; label = l; warm = w; secs = s; }
    public void open(OpenContext c) { sub = getRuntimeContext().getTaskInfo().getIndexOfThisSubtask(); if (meter) Meter.begin(label, warm, secs); }
    public void flatMap(String l, Collector<String> out) {
      int i = 0, len = l.length();
      while (i < len) { int j = l.indexOf(' ', i); if (j < 0) j = len; if (j > i) { out.collect(l.substring(i, j)); n++; } i = j + 1; }
      if (meter) Meter.set(sub, n);
    }
    public void close() { if (meter) Meter.end(); }
  }
  static class LatRec<T> extends RichFlatMapFunction<T, Long> {
    final MapFunction<T, Long> stamp; final String label; final double warm; transient Hist h; transient long t0;
    LatRec(MapFunction<T, Long> s, String l, double w) { stamp = s; label = l; warm = w; }
    public void open(OpenContext c) { h = Hist.create(); }
    public void flatMap(T v, Collector<Long> out) throws Exception { long now = System.nanoTime(); if (t0 == 0) t0 = now; if (now - t0 < warm * 1e9) return; h.add(now - stamp.map(v)); }
    public void close() { if (h != null) { Hist.done(label); h = null; } }
  }

  public static void main(String[] a) throws Exception {
    for (int i = 0; i + 1 < a.length; i += 2) A.put(a[i].substring(2), a[i + 1]);
    String q = g("q", "q0"); double evr = Double.parseDouble(g("evrate", "100000"));
    String label = g("label", String.format("ds q=%s par=%s backend=%s cp=%s buf=%s evrate=%s%s", q, g("par", "1"), g("backend", "hashmap"), g("cp", "0"), g("buf", "100"), g("evrate", "100000"), A.containsKey("rate") ? " rate=" + g("rate", "0") : ""));
    StreamExecutionEnvironment env = env();
    double warm = Double.parseDouble(g("warm", "8")), secs = Double.parseDouble(g("secs", "20"));
    if (q.startsWith("lat")) { lat(env, q, label, warm); }
    else if (q.startsWith("wc")) {
      DataStream<String> lines;
      if (q.equals("wcfile")) lines = env.fromSource(FileSource.forRecordStreamFormat(new TextLineInputFormat(), new Path(g("file", root() + "/data/words.txt"))).build(), WatermarkStrategy.noWatermarks(), "file");
      else lines = env.fromSource(new NxSource<>(new WordFn(), Types.STRING, opt(label + " LINES(x10=words)")), WatermarkStrategy.noWatermarks(), "mem");
      lines.flatMap(new Split(q.equals("wcfile"), label, warm, secs)).returns(Types.STRING)
          .keyBy(w -> w, Types.STRING).process(new Count<String>()).returns(Types.TUPLE(Types.STRING, Types.LONG)).sinkTo(new DiscardingSink<>());
    } else {
      DataStream<Gen.Event> src = env.fromSource(new NxSource<>(new EvFn(evr), TypeInformation.of(Gen.Event.class), opt(label)), WatermarkStrategy.forMonotonousTimestamps(), "nx");
      if (q.equals("q0")) src.map(e -> e).returns(Gen.Event.class).sinkTo(new DiscardingSink<>());
      else if (q.equals("q0x")) src.rebalance().map(e -> e).returns(Gen.Event.class).sinkTo(new DiscardingSink<>());
      else if (q.equals("q1")) src.filter(e -> e.type == 2).map(e -> { Gen.Bid b = e.bid, o = new Gen.Bid(); o.auction = b.auction; o.bidder = b.bidder; o.price = b.price * 908 / 1000; o.channel = b.channel; o.url = b.url; o.dateTime = b.dateTime; o.extra = b.extra; return o; }).returns(Gen.Bid.class).sinkTo(new DiscardingSink<>());
      else if (q.equals("q2")) src.filter(e -> e.type == 2 && e.bid.auction % 123 == 0).map(e -> Tuple2.of(e.bid.auction, e.bid.price)).returns(T2).sinkTo(new DiscardingSink<>());
      else if (q.equals("count")) src.filter(e -> e.type == 2).map(e -> e.bid.auction).returns(Types.LONG).keyBy(x -> x, Types.LONG).process(new Count<Long>()).returns(T2).sinkTo(new DiscardingSink<>());
      else if (q.equals("q5")) {
        src.filter(e -> e.type == 2).map(e -> e.bid.auction).returns(Types.LONG).keyBy(x -> x, Types.LONG)
            .window(SlidingEventTimeWindows.of(Duration.ofSeconds(10), Duration.ofSeconds(2)))
            .aggregate(new CountAgg<Long>(), new ProcessWindowFunction<Long, Tuple3<Long, Long, Long>, Long, TimeWindow>() {
              public void process(Long k, Context c, Iterable<Long> it, Collector<Tuple3<Long, Long, Long>> out) { out.collect(Tuple3.of(c.window().getEnd(), k, it.iterator().next())); }
            }, Types.LONG, Types.LONG, T3)
            .keyBy(t -> t.f0, Types.LONG).window(TumblingEventTimeWindows.of(Duration.ofSeconds(2)))
            .reduce((x, y) -> x.f2 >= y.f2 ? x : y).returns(T3).sinkTo(new DiscardingSink<>());
      } else if (q.equals("q7")) {
        src.filter(e -> e.type == 2).map(e -> Tuple3.of(e.bid.auction, e.bid.bidder, e.bid.price)).returns(T3)
            .keyBy(t -> t.f0 & 63, Types.LONG).window(TumblingEventTimeWindows.of(Duration.ofSeconds(10))).reduce((x, y) -> x.f2 >= y.f2 ? x : y)
            .windowAll(TumblingEventTimeWindows.of(Duration.ofSeconds(10))).reduce((x, y) -> x.f2 >= y.f2 ? x : y).sinkTo(new DiscardingSink<>());
      } else if (q.equals("q8")) {
        DataStream<Tuple2<Long, String>> p = src.filter(e -> e.type == 0).map(e -> Tuple2.of(e.person.id, e.person.name)).returns(Types.TUPLE(Types.LONG, Types.STRING));
        DataStream<Tuple2<Long, Long>> au = src.filter(e -> e.type == 1).map(e -> Tuple2.of(e.auction.seller, e.auction.reserve)).returns(T2);
        p.join(au).where(t -> t.f0, Types.LONG).equalTo(t -> t.f0, Types.LONG).window(TumblingEventTimeWindows.of(Duration.ofSeconds(10)))
            .apply(new JoinFunction<Tuple2<Long, String>, Tuple2<Long, Long>, Tuple3<Long, String, Long>>() {
              public Tuple3<Long, String, Long> join(Tuple2<Long, String> x, Tuple2<Long, Long> y) { return Tuple3.of(x.f0, x.f1, y.f1); }
            }, Types.TUPLE(Types.LONG, Types.STRING, Types.LONG)).sinkTo(new DiscardingSink<>());
      } else throw new IllegalArgumentException(q);
    }
    long t0 = System.nanoTime();
    try { env.execute(label); } finally { System.out.printf("JOBTIME %s %.2fs%n", label, (System.nanoTime() - t0) / 1e9); }
    if (g("session", "0").equals("0")) System.exit(0);
  }

  static void lat(StreamExecutionEnvironment env, String q, String label, double warm) {
    SingleOutputStreamOperator<Tuple2<Long, Long>> s = env.fromSource(new NxSource<>(new LatFn(), T2, opt(label)), WatermarkStrategy.forMonotonousTimestamps(), "lat");
    if (q.equals("latcount")) // every event's running count is stamped through
      s.keyBy(t -> t.f0, Types.LONG).process(new KeyedProcessFunction<Long, Tuple2<Long, Long>, Tuple2<Long, Long>>() {
        transient ValueState<Long> st;
        public void open(OpenContext c) { st = getRuntimeContext().getState(new ValueStateDescriptor<>("c", Types.LONG)); }
        public void processElement(Tuple2<Long, Long> v, Context x, Collector<Tuple2<Long, Long>> out) throws Exception { Long c = st.value(); st.update(c == null ? 1 : c + 1); out.collect(v); }
      }).returns(T2).flatMap(new LatRec<Tuple2<Long, Long>>(t -> t.f1, label, warm)).returns(Types.LONG).sinkTo(new DiscardingSink<>());
    else if (q.equals("latwin")) // tumbling 1 s count per key; latency = emission - wall time of the window end
      s.keyBy(t -> t.f0, Types.LONG).window(TumblingEventTimeWindows.of(Duration.ofSeconds(1)))
          .aggregate(new CountAgg<Tuple2<Long, Long>>(), new ProcessWindowFunction<Long, Tuple3<Long, Long, Long>, Long, TimeWindow>() {
            public void process(Long k, Context c, Iterable<Long> it, Collector<Tuple3<Long, Long, Long>> out) { out.collect(Tuple3.of(c.window().getEnd() * 1_000_000, k, it.iterator().next())); }
          }, Types.LONG, Types.LONG, T3).flatMap(new LatRec<Tuple3<Long, Long, Long>>(t -> t.f0, label, warm)).returns(Types.LONG).sinkTo(new DiscardingSink<>());
    else throw new IllegalArgumentException(q);
  }
}
