//! Times a workload.
use millstream::Config;
use millstream_workloads::throughput::*;
#[global_allocator]
static G: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let w: Workload = a[1].parse().unwrap();
    let slots: u32 = a[2].parse().unwrap();
    let n: usize = a[3].parse().unwrap();
    let dir = std::path::Path::new("/tmp/ms/data");
    let input = if w.reads_text() {
        data::ensure_text(dir).unwrap();
        Input::Text(String::leak(data::load_text(dir).unwrap()))
    } else {
        data::ensure_events(dir, n).unwrap();
        Input::Events(Vec::leak(data::load_events(dir, n).unwrap()))
    };
    let ev = input.events();
    for _ in 0..a.get(4).map_or(5, |x| x.parse().unwrap()) {
        let o = run(
            w,
            input,
            Config::default().with_slots(slots).set("latency_interval", "off").unwrap(),
        )
        .unwrap();
        println!(
            "{w} {slots} {:.1} M/s cpu {:.4}s {} {}",
            ev as f64 / o.result.elapsed.as_secs_f64() / 1e6,
            o.result.cpu.as_secs_f64(),
            o.checksum,
            o.checksum.results()
        );
    }
}
