//! The strings that repeat: names, places, channels and the pages of items.

use std::fmt::Write;
use std::sync::LazyLock;

use compact_str::{CompactString, format_compact};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Channels with a page of their own.
const CHANNELS: u64 = 10_000;

/// Built once per process: the pages of ten thousand channels take some milliseconds.
static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(|| Vocabulary {
    first_names: [
        "peter", "paul", "luke", "john", "saul", "vicky", "kate", "julie", "sarah", "deiter",
        "walter",
    ],
    last_names: [
        "shultz", "abrams", "spencer", "white", "bartels", "walton", "smith", "jones", "noris",
    ],
    cities: [
        "phoenix",
        "los angeles",
        "san francisco",
        "boise",
        "portland",
        "bend",
        "redmond",
        "seattle",
        "kent",
        "cheyenne",
    ],
    states: ["az", "ca", "id", "or", "wa", "wy"],
    hot_channels: ["Google", "Facebook", "Baidu", "Apple"]
        .into_iter()
        .zip(0..)
        .map(|(channel, seed)| (channel.into(), item_page(seed)))
        .collect(),
    channels: (0..CHANNELS).map(channel).collect(),
});

#[derive(Debug)]
pub(super) struct Vocabulary {
    pub(super) first_names: [&'static str; 11],
    pub(super) last_names: [&'static str; 9],
    pub(super) cities: [&'static str; 10],
    pub(super) states: [&'static str; 6],
    /// Channels that half of all bids come through, each with its page.
    pub(super) hot_channels: Vec<(CompactString, String)>,
    /// All other channels, each with its page.
    pub(super) channels: Vec<(CompactString, String)>,
}

impl Vocabulary {
    pub(super) fn get() -> &'static Vocabulary {
        &VOCABULARY
    }
}

fn channel(number: u64) -> (CompactString, String) {
    let mut page = item_page(number);
    if SmallRng::seed_from_u64(number).gen_range(0..10) > 0 {
        // The id is the number with its bits turned round, read as a signed integer.
        let id = i64::from((number as i32).reverse_bits()).abs();
        write!(page, "&channel_id={id}").expect("a string takes what is written");
    }
    (format_compact!("channel-{number}"), page)
}

fn item_page(seed: u64) -> String {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut page = String::from("https://www.nexmark.com/");
    for _ in 0..3 {
        push_path_segment(&mut page, &mut rng);
        page.push('/');
    }
    page.push_str("item.htm?query=1");
    page
}

/// Three or four letters, about one in 13 of which is an underscore instead.
fn push_path_segment(page: &mut String, rng: &mut SmallRng) {
    for _ in 0..rng.gen_range(3..5usize) {
        let letter =
            if rng.gen_range(0..13) == 0 { '_' } else { char::from(rng.gen_range(b'a'..=b'z')) };
        page.push(letter);
    }
}
