//! Scratch.
use millstream_workloads::throughput::*;
use millstream::prelude::*;
#[global_allocator]
static G: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    let ev: &'static [Ev] = Vec::leak(data::load_events(std::path::Path::new("/tmp/ms/data"), 10_000_000).unwrap());
    let user = || { let s=std::fs::read_to_string("/proc/self/stat").unwrap(); let f: Vec<&str>=s.split(' ').collect(); f[13].parse::<f64>().unwrap()*0.01 };
    for kind in ["fused", "exch-bid", "exch-u64", "count", "countp", "count-hot"] {
        let mut best = f64::MAX;
        let mut el = f64::MAX;
        for _ in 0..12 {
            let env = Environment::new(Config::default().set("latency_interval","off").unwrap());
            let bids = env.from_iterator("e", move |_, _| ev.chunks(4096).flatten().copied()).filter_map(Ev::bid);
            let mut s = 0u64; let mut s2 = 0u64; let mut s3 = 0u64; let mut s4=0u64;
            match kind {
                "fused" => bids.for_each(move |b| s += b.auction),
                "exch-bid" => bids.map(|b| (b.auction, b.bidder, b.price, b.ts)).rebalance().for_each(move |b| s2 += b.0),
                "exch-u64" => bids.map(|b| b.auction).rebalance().for_each(move |b| s3 += b),
                "count" => bids.key_by(|b| b.auction).count().for_each(move |b| s4 += b.0 ^ b.1),
                "countp" => bids.map(|b| b.auction).key_by(|b| *b).count().for_each(move |b| s4 += b.0 ^ b.1),
                _ => bids.map(|b| b.auction % 1000).key_by(|b| *b).count().for_each(move |b| s4 += b.0 ^ b.1),
            }
            let r = { let _ = user(); env.execute("x").unwrap() };
            best = best.min(r.cpu.as_secs_f64()); el = el.min(r.elapsed.as_secs_f64());
        }
        println!("{kind}: best cpu {:.2} ns/event, wall {:.2}", best * 100.0, el * 100.0);
    }
}
