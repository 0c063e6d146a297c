//! Shared by all peers: events, input partitioning, window state, check-sums, harness.
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

pub mod interactive;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// where the input lies: the environment's PEERS_DATA, or peers-data below the working folder
pub fn dir() -> String { std::env::var("PEERS_DATA").unwrap_or("peers-data".into()) }
pub const BLOCK: usize = 4096; // source block: dealt round robin to the workers; one watermark per block
pub const SLIDE: u64 = 2_000;
pub const SIZE: u64 = 10_000;

/// Compact 40-byte form of a Nexmark event (strings dropped, name kept as a hash).
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq)]
pub enum Ev {
    Person { id: u64, name: u64, ts: u64 },
    Auction { category: u32, id: u64, seller: u64, reserve: u64, ts: u64 },
    Bid { auction: u64, bidder: u64, price: u64, ts: u64 },
}
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq)]
pub struct Bid { pub auction: u64, pub bidder: u64, pub price: u64, pub ts: u64 }

impl Ev {
    #[inline(always)]
    pub fn ts(&self) -> u64 {
        match *self { Ev::Person { ts, .. } | Ev::Auction { ts, .. } | Ev::Bid { ts, .. } => ts }
    }
    #[inline(always)]
    pub fn bid(self) -> Option<Bid> {
        match self { Ev::Bid { auction, bidder, price, ts } => Some(Bid { auction, bidder, price, ts }), _ => None }
    }
    /// q0 signature: touches all fields
    #[inline(always)]
    pub fn sig(&self) -> u64 {
        match *self {
            Ev::Person { id, name, ts } => id.wrapping_mul(3) ^ name ^ ts,
            Ev::Auction { category, id, seller, reserve, ts } => id.wrapping_mul(5) ^ seller ^ reserve ^ ts ^ category as u64,
            Ev::Bid { auction, bidder, price, ts } => auction.wrapping_mul(7) ^ bidder ^ price ^ ts,
        }
    }
}
impl Bid {
    #[inline(always)]
    pub fn euro(mut self) -> Bid { self.price = self.price * 908 / 1000; self }
    #[inline(always)]
    pub fn sig(&self) -> u64 { self.auction.wrapping_mul(7) ^ self.bidder ^ self.price ^ self.ts }
    #[inline(always)]
    pub fn q2(&self) -> bool { self.auction % 123 == 0 }
}
#[inline(always)]
pub fn mix(mut x: u64) -> u64 {
    x ^= x >> 33; x = x.wrapping_mul(0xff51afd7ed558ccd);
    x ^= x >> 33; x = x.wrapping_mul(0xc4ceb9fe1a85ec53);
    x ^ (x >> 33)
}
#[inline(always)]
pub fn sig_count(auction: u64, n: u64) -> u64 { auction.wrapping_mul(0x9E3779B97F4A7C15) ^ n.wrapping_mul(0xC2B2AE3D27D4EB4F) }
pub fn sig_q5(end: u64, auction: u64, n: u64) -> u64 { mix(end ^ mix(auction ^ mix(n))) }
pub fn sig_q7(end: u64, b: &Bid) -> u64 { mix(end ^ mix(b.price ^ mix(b.auction ^ mix(b.bidder)))) }
pub fn sig_q8(end: u64, person: u64, name: u64, reserve: u64) -> u64 { mix(end ^ mix(person ^ mix(name ^ mix(reserve)))) }
pub fn hash_word(w: &[u8]) -> u64 {
    let mut h = 0xcbf29ce484222325u64;
    for &b in w { h = (h ^ b as u64).wrapping_mul(0x100000001b3); }
    mix(h)
}
pub fn sig_wc(w: &str, n: u64) -> u64 { hash_word(w.as_bytes()).wrapping_mul(n) }
/// order of q7 candidates: price, then the smaller auction, then the smaller bidder
#[inline(always)]
pub fn q7_better(a: &Bid, b: &Bid) -> bool {
    (a.price, !a.auction, !a.bidder) > (b.price, !b.auction, !b.bidder)
}

// ---- window state used by every hand-written operator -------------------------------------
/// q5 by panes of one slide; `close(wm)` calls `emit(window_end, auction, count)` for the best key
/// of each window that is complete at watermark `wm` (events with ts < wm have all been seen).
#[derive(Clone, Default)]
pub struct Sliding { panes: std::collections::BTreeMap<u64, FxHashMap<u64, u64>>, next_end: u64, cur_p: u64, cur: FxHashMap<u64, u64> }
impl Sliding {
    #[inline(always)]
    pub fn add(&mut self, ts: u64, auction: u64, n: u64) {
        let p = ts / SLIDE;
        if p != self.cur_p { self.stash(); self.cur_p = p; self.cur = self.panes.remove(&p).unwrap_or_default() }
        *self.cur.entry(auction).or_insert(0) += n;
    }
    fn stash(&mut self) {
        if !self.cur.is_empty() { let m = std::mem::take(&mut self.cur); self.panes.insert(self.cur_p, m); }
        self.cur_p = 0;
    }
    pub fn close(&mut self, wm: u64, mut emit: impl FnMut(u64, u64, u64)) {
        if self.cur_p != 0 && self.panes.is_empty() && (self.cur_p + 1) * SLIDE > wm { return }
        self.stash();
        loop {
            let Some((&first, _)) = self.panes.first_key_value() else { return };
            // earliest window that holds the first pane
            let end = self.next_end.max((first + 1) * SLIDE);
            if end > wm { return }
            let lo = (end / SLIDE).saturating_sub(SIZE / SLIDE);
            let mut all: FxHashMap<u64, u64> = FxHashMap::default();
            for (_, m) in self.panes.range(lo..end / SLIDE) {
                for (k, n) in m { *all.entry(*k).or_insert(0) += n }
            }
            if let Some((a, n)) = all.into_iter().map(|(k, n)| (n, !k)).max().map(|(n, k)| (!k, n)) { emit(end, a, n) }
            self.next_end = end + SLIDE;
            // the pane just before lo+1 is dead
            let dead = (self.next_end / SLIDE).saturating_sub(SIZE / SLIDE);
            while let Some((&p, _)) = self.panes.first_key_value() { if p < dead { self.panes.pop_first(); } else { break } }
        }
    }
}
/// second stage of q5: max over the workers per window
#[derive(Clone, Default)]
pub struct Best { m: std::collections::BTreeMap<u64, (u64, u64)> }
impl Best {
    pub fn add(&mut self, end: u64, auction: u64, n: u64) {
        let e = self.m.entry(end).or_insert((0, 0));
        if (n, auction) > (0, 0) && (n, !auction) > (e.0, !e.1) { *e = (n, auction) }
    }
    pub fn close(&mut self, wm: u64, mut emit: impl FnMut(u64, u64, u64)) {
        while let Some((&end, &(n, a))) = self.m.first_key_value() { if end <= wm { emit(end, a, n); self.m.pop_first(); } else { break } }
    }
}
/// q7: tumbling max, used for both stages
#[derive(Clone, Default)]
pub struct TumbMax { m: std::collections::BTreeMap<u64, Bid> }
impl TumbMax {
    #[inline(always)]
    pub fn add(&mut self, end: u64, b: Bid) {
        match self.m.entry(end) {
            std::collections::btree_map::Entry::Vacant(v) => { v.insert(b); }
            std::collections::btree_map::Entry::Occupied(mut o) => if q7_better(&b, o.get()) { o.insert(b); },
        }
    }
    pub fn close(&mut self, wm: u64, mut emit: impl FnMut(u64, Bid)) {
        while let Some((&end, &b)) = self.m.first_key_value() { if end <= wm { emit(end, b); self.m.pop_first(); } else { break } }
    }
}
#[inline(always)]
pub fn wend(ts: u64) -> u64 { ts / SIZE * SIZE + SIZE }
/// q8 record after the shuffle
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum PA { P { id: u64, name: u64, ts: u64 }, A { seller: u64, reserve: u64, ts: u64 } }
impl PA {
    #[inline(always)]
    pub fn of(e: Ev) -> Option<PA> {
        match e {
            Ev::Person { id, name, ts } => Some(PA::P { id, name, ts }),
            Ev::Auction { seller, reserve, ts, .. } => Some(PA::A { seller, reserve, ts }),
            _ => None,
        }
    }
    #[inline(always)]
    pub fn key(&self) -> u64 { match *self { PA::P { id, .. } => id, PA::A { seller, .. } => seller } }
    #[inline(always)]
    pub fn ts(&self) -> u64 { match *self { PA::P { ts, .. } | PA::A { ts, .. } => ts } }
}
#[derive(Clone, Default)]
pub struct JoinWin { m: std::collections::BTreeMap<u64, (FxHashMap<u64, u64>, Vec<(u64, u64)>)> }
impl JoinWin {
    #[inline(always)]
    pub fn add(&mut self, x: PA) {
        let w = self.m.entry(wend(x.ts())).or_default();
        match x { PA::P { id, name, .. } => { w.0.insert(id, name); } PA::A { seller, reserve, .. } => w.1.push((seller, reserve)) }
    }
    /// emit(window_end, person, name, reserve)
    pub fn close(&mut self, wm: u64, mut emit: impl FnMut(u64, u64, u64, u64)) {
        while let Some((&end, _)) = self.m.first_key_value() {
            if end > wm { break }
            let (_, (p, a)) = self.m.pop_first().unwrap();
            for (s, r) in a { if let Some(n) = p.get(&s) { emit(end, s, *n, r) } }
        }
    }
}

// ---- input ---------------------------------------------------------------------------------
pub fn load_events(n: usize) -> &'static [Ev] {
    use std::io::Read;
    let mut f = std::io::BufReader::with_capacity(1 << 20, std::fs::File::open(format!("{}/ev.bin", dir())).expect("run gen first"));
    let mut v = Vec::with_capacity(n);
    let mut b = [0u8; 40];
    for _ in 0..n {
        f.read_exact(&mut b).expect("ev.bin too short");
        let w = |i: usize| u64::from_le_bytes(b[i * 8..i * 8 + 8].try_into().unwrap());
        v.push(match w(0) & 0xff {
            0 => Ev::Person { id: w(1), name: w(2), ts: w(4) },
            1 => Ev::Auction { category: (w(0) >> 32) as u32, id: w(1), seller: w(2), reserve: w(3), ts: w(4) },
            _ => Ev::Bid { auction: w(1), bidder: w(2), price: w(3), ts: w(4) },
        });
    }
    Vec::leak(v)
}
pub fn load_text(limit: usize) -> &'static str {
    let mut s = std::fs::read_to_string(format!("{}/text.txt", dir())).expect("run gen first");
    if limit < s.len() { s.truncate(limit); let p = s.rfind('\n').unwrap(); s.truncate(p + 1); }
    String::leak(s)
}
/// blocks of worker `i` of `n`
pub fn blocks(ev: &'static [Ev], i: usize, n: usize) -> impl Iterator<Item = &'static [Ev]> + Clone + Send {
    ev.chunks(BLOCK).skip(i).step_by(n)
}
pub fn lines(t: &'static str, i: usize, n: usize) -> std::str::Lines<'static> {
    let at = |k: usize| if k == 0 { 0 } else if k >= n { t.len() } else { let p = t.len() / n * k; p + t[p..].find('\n').unwrap() + 1 };
    t[at(i)..at(i + 1)].lines()
}

// ---- check-sum collection ------------------------------------------------------------------
static SUM: AtomicU64 = AtomicU64::new(0);
static OUT: AtomicU64 = AtomicU64::new(0);
/// per-thread sink; adds itself to the global sum when dropped
#[derive(Default)]
pub struct Acc { pub sum: u64, pub n: u64 }
impl Acc {
    #[inline(always)]
    pub fn add(&mut self, s: u64) { self.sum = self.sum.wrapping_add(s); self.n += 1 }
}
impl Clone for Acc { fn clone(&self) -> Self { Acc::default() } }
impl Drop for Acc {
    fn drop(&mut self) { if self.n > 0 { SUM.fetch_add(self.sum, SeqCst); OUT.fetch_add(self.n, SeqCst); } }
}
/// (check-sum, outputs)
pub fn take_sum() -> (u64, u64) { (SUM.swap(0, SeqCst), OUT.swap(0, SeqCst)) }

// ---- latency -------------------------------------------------------------------------------
pub mod lat {
    use hdrhistogram::Histogram;
    use std::sync::{Mutex, OnceLock};
    use std::time::Instant;
    static T0: OnceLock<Instant> = OnceLock::new();
    static ALL: Mutex<Option<Histogram<u64>>> = Mutex::new(None);
    #[inline(always)]
    pub fn now() -> u64 { T0.get_or_init(Instant::now).elapsed().as_nanos() as u64 }
    /// open-loop schedule: the k-th record of this source is due at `start + k * period`
    #[derive(Clone)]
    pub struct Pace { pub start: u64, pub period_x1000: u64, pub k: u64, pub end: u64 }
    impl Pace {
        pub fn new(start: u64, rate_per_source: u64, secs: u64) -> Self {
            Pace { start, period_x1000: 1_000_000_000_000 / rate_per_source, k: 0, end: rate_per_source * secs }
        }
        #[inline(always)]
        pub fn due(&self) -> u64 { self.start + self.k * self.period_x1000 / 1000 }
        pub fn done(&self) -> bool { self.k >= self.end }
    }
    pub struct Rec { h: Histogram<u64>, from: u64 }
    impl Rec {
        pub fn new(from: u64) -> Self { Rec { h: Histogram::new_with_bounds(1, 120_000_000_000, 3).unwrap(), from } }
        #[inline(always)]
        pub fn rec(&mut self, intended: u64) { if intended >= self.from { let n = now(); self.h.record(n.saturating_sub(intended).max(1)).ok(); } }
    }
    impl Clone for Rec { fn clone(&self) -> Self { Rec::new(self.from) } }
    impl Drop for Rec {
        fn drop(&mut self) {
            if self.h.len() == 0 { return }
            let mut g = ALL.lock().unwrap();
            match g.as_mut() { Some(a) => a.add(&self.h).unwrap(), None => *g = Some(self.h.clone()) }
        }
    }
    pub fn report(peer: &str, mode: &str, rate: u64, wall: f64, expect: u64) {
        let g = ALL.lock().unwrap();
        let Some(h) = g.as_ref() else { println!("LAT,{peer},{mode},{rate},no samples"); return };
        let q = |p: f64| h.value_at_quantile(p) as f64 / 1e3;
        println!("LAT,{peer},{mode},{rate},{},{:.1},{:.1},{:.1},{:.1},{:.1},{:.2},{}", h.len(), q(0.5), q(0.99), q(0.999), q(0.9999), h.max() as f64 / 1e3, wall, expect);
    }
}

// ---- harness -------------------------------------------------------------------------------
pub struct Data { pub ev: &'static [Ev], pub text: &'static str }
fn status_kb(k: &str) -> u64 {
    std::fs::read_to_string("/proc/self/status").unwrap().lines().find(|l| l.starts_with(k))
        .and_then(|l| l.split_whitespace().nth(1)).and_then(|x| x.parse().ok()).unwrap_or(0)
}
/// `bin QUERY WORKERS`; env: N (events), TEXT (bytes), REPS. Prints one CSV row.
/// `run(query, workers, data)` returns false if the query is unknown.
pub fn main_with(peer: &str, run: impl Fn(&str, usize, &Data) -> bool) {
    let a: Vec<String> = std::env::args().collect();
    let (q, w) = (a[1].as_str(), a[2].parse::<usize>().unwrap());
    let num = |k: &str, d: usize| std::env::var(k).ok().and_then(|x| x.parse().ok()).unwrap_or(d);
    let wc = q.starts_with("wc");
    let d = Data {
        ev: if wc { &[] } else { load_events(num("N", 10_000_000)) },
        text: if wc { load_text(num("TEXT", usize::MAX)) } else { "" },
    };
    let base = status_kb("VmRSS");
    let inputs = if wc { d.text.lines().map(|l| l.split_ascii_whitespace().count()).sum() } else { d.ev.len() };
    if interactive::requested() {
        return interactive::serve(inputs, || interactive::timed(|| if !run(q, w, &d) { eprintln!("{peer}: no query {q}"); std::process::exit(3) }));
    }
    let reps = num("REPS", 5);
    let budget = num("BUDGET_S", 70) as f64;
    let t_all = Instant::now();
    let (mut secs, mut sums) = (vec![], vec![]);
    let warm = num("WARM", 1);
    for r in 0..reps + warm {
        let t = Instant::now();
        if !run(q, w, &d) { eprintln!("{peer}: no query {q}"); std::process::exit(3) }
        let s = t.elapsed().as_secs_f64();
        sums.push(take_sum());
        if r >= warm { secs.push(s) }
        if t_all.elapsed().as_secs_f64() + s > budget && !secs.is_empty() { break }
    }
    let same = sums.iter().all(|s| *s == sums[0]);
    secs.sort_by(|a, b| a.total_cmp(b));
    let med = secs[secs.len() / 2];
    let name = std::env::var("PEER_NAME").unwrap_or(peer.to_string());
    // peer,query,workers,events_per_s,checksum,outputs,events,min_eps,max_eps,reps,base_mb,peak_mb
    println!("{name},{q},{w},{:.0},{}{:016x},{},{},{:.0},{:.0},{},{},{}",
        inputs as f64 / med, if same { "" } else { "UNSTABLE-" }, sums[0].0, sums[0].1, inputs,
        inputs as f64 / secs[secs.len() - 1], inputs as f64 / secs[0], secs.len(), base / 1024, status_kb("VmHWM") / 1024);
}
