//! Writes ev.bin (compact Nexmark events) and text.txt (zipf words), and times the generator.
use common::*;
use nexmark::{config::NexmarkConfig, event::Event, EventGenerator};
use rand::{rngs::SmallRng, Rng, SeedableRng};
use std::io::Write;
fn conf() -> NexmarkConfig { NexmarkConfig { base_time: 1_700_000_000_000, first_rate: 10_000, next_rate: 10_000, ..Default::default() } }
fn main() {
    let n: usize = std::env::var("N").ok().and_then(|x| x.parse().ok()).unwrap_or(10_000_000);
    std::fs::create_dir_all(dir()).unwrap();
    let t = std::time::Instant::now();
    let m = 2_000_000;
    let mut bytes = 0usize;
    for e in EventGenerator::new(conf()).take(m) { bytes += match &e { Event::Bid(b) => b.extra.len() + b.url.len(), Event::Auction(a) => a.extra.len(), Event::Person(p) => p.extra.len() } }
    println!("GEN,nexmark crate 0.2 full events,1 thread,{:.0},{}", m as f64 / t.elapsed().as_secs_f64(), bytes);
    let p = format!("{}/ev.bin", dir());
    if std::fs::metadata(&p).map(|m| m.len() as usize).unwrap_or(0) != n * 40 {
        let mut f = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(&p).unwrap());
        for e in EventGenerator::new(conf()).take(n) {
            let w: [u64; 5] = match e {
                Event::Person(p) => [0, p.id as u64, hash_word(p.name.as_bytes()), 0, p.date_time],
                Event::Auction(a) => [1 | (a.category as u64) << 32, a.id as u64, a.seller as u64, a.reserve as u64, a.date_time],
                Event::Bid(b) => [2, b.auction as u64, b.bidder as u64, b.price as u64, b.date_time],
            };
            for x in w { f.write_all(&x.to_le_bytes()).unwrap() }
        }
        f.flush().unwrap();
    }
    let p = format!("{}/text.txt", dir());
    if std::fs::metadata(&p).is_err() {
        let mut r = SmallRng::seed_from_u64(42);
        let v = 100_000usize;
        let words: Vec<String> = (0..v).map(|i| { let l = 2 + (i as f64 + 1.0).ln() as usize / 2 + r.gen_range(0..5); (0..l).map(|_| r.gen_range(b'a'..=b'z') as char).collect() }).collect();
        let mut cdf = Vec::with_capacity(v); let mut s = 0.0;
        for i in 0..v { s += 1.0 / (i as f64 + 1.0); cdf.push(s) }
        let mut f = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(&p).unwrap());
        let mut out = 0usize;
        while out < 200_000_000 {
            for j in 0..12 {
                let x = r.gen::<f64>() * s;
                let w = &words[cdf.partition_point(|c| *c < x).min(v - 1)];
                f.write_all(w.as_bytes()).unwrap(); f.write_all(if j == 11 { b"\n" } else { b" " }).unwrap();
                out += w.len() + 1;
            }
        }
        f.flush().unwrap();
    }
}
