//! A plot of latency by percentile, as SVG.
//!
//! Both axes are logarithmic: to the right, each division is one more nine of the percentile; up,
//! each is ten times as long.

use hdrhistogram::Histogram;
use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;
const COLORS: [&str; 4] = ["#1f77b4", "#999999", "#d62728", "#2ca02c"];
const STEPS_PER_HALF: u32 = 20;

/// Draws distributions of nanoseconds under their names.
pub(super) fn svg(title: &str, curves: &[(&str, &Histogram<u64>)]) -> String {
    let axes = Axes::around(curves);
    // Writing to a string does not fail.
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">
<rect width="100%" height="100%" fill="white"/>
<text x="{}" y="28" text-anchor="middle" font-size="16">{}</text>"##,
        WIDTH / 2.0,
        escaped(title),
    );
    axes.draw(&mut svg);
    for (index, (name, histogram)) in curves.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let points: String = histogram
            .iter_quantiles(STEPS_PER_HALF)
            .map(|step| {
                let x = axes.x(step.quantile_iterated_to());
                let y = axes.y(step.value_iterated_to() as f64);
                format!("{x:.1},{y:.1} ")
            })
            .collect();
        let (x, y) = (LEFT + 16.0, TOP + 20.0 + index as f64 * 20.0);
        let _ = writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{color}" stroke-width="2"/>
<rect x="{x}" y="{}" width="14" height="4" fill="{color}"/>
<text x="{}" y="{y}">{}</text>"#,
            points.trim_end(),
            y - 6.0,
            x + 20.0,
            escaped(name),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Which percentiles and times are shown.
struct Axes {
    /// Nines of the last percentile.
    nines: f64,
    /// Powers of ten of nanoseconds.
    lowest: f64,
    highest: f64,
}

impl Axes {
    fn around(curves: &[(&str, &Histogram<u64>)]) -> Self {
        let samples = curves.iter().map(|(_, h)| h.len()).max().unwrap_or(0).max(10);
        let least = curves.iter().map(|(_, h)| h.min()).min().unwrap_or(0).max(100);
        let most = curves.iter().map(|(_, h)| h.max()).max().unwrap_or(0).max(least);
        let lowest = (least as f64).log10().floor();
        let highest = (most as f64).log10().ceil().max(lowest + 1.0);
        Self { nines: (samples as f64).log10().ceil().clamp(2.0, 7.0), lowest, highest }
    }

    fn x(&self, quantile: f64) -> f64 {
        let nines = -(1.0 - quantile).max(1e-12).log10();
        LEFT + (WIDTH - LEFT - RIGHT) * (nines / self.nines).clamp(0.0, 1.0)
    }

    fn y(&self, nanos: f64) -> f64 {
        let share = (nanos.max(1.0).log10() - self.lowest) / (self.highest - self.lowest);
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share.clamp(0.0, 1.0)
    }

    fn draw(&self, svg: &mut String) {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for nines in 0..=self.nines as i32 {
            let quantile = 1.0 - 10f64.powi(-nines);
            let x = self.x(quantile);
            let label = format!("{}%", (quantile * 1e7).round() / 1e5);
            let _ = writeln!(
                svg,
                r##"<line x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{bottom}" stroke="#dddddd"/>
<text x="{x:.1}" y="{}" text-anchor="middle">{label}</text>"##,
                bottom + 20.0,
            );
        }
        for power in self.lowest as i32..=self.highest as i32 {
            let nanos = 10f64.powi(power);
            let y = self.y(nanos);
            let label = match power {
                0..=2 => format!("{nanos} ns"),
                3..=5 => format!("{} us", nanos / 1e3),
                6..=8 => format!("{} ms", nanos / 1e6),
                _ => format!("{} s", nanos / 1e9),
            };
            let _ = writeln!(
                svg,
                r##"<line x1="{LEFT}" y1="{y:.1}" x2="{right}" y2="{y:.1}" stroke="#dddddd"/>
<text x="{}" y="{:.1}" text-anchor="end">{label}</text>"##,
                LEFT - 8.0,
                y + 4.0,
            );
        }
        let _ = writeln!(
            svg,
            r#"<text x="{}" y="{}" text-anchor="middle">percentile</text>"#,
            f64::midpoint(LEFT, right),
            HEIGHT - 14.0,
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::histogram;

    #[test]
    fn curves_stay_within_the_plot() {
        let mut fast = histogram::empty();
        (1..=10_000u64).for_each(|n| fast.record(n * 50).unwrap());
        let mut slow = histogram::empty();
        slow.record(3_000_000_000).unwrap();
        let svg = svg("a < b & c", &[("fast", &fast), ("slow", &slow)]);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a &lt; b &amp; c"));
        let mut points = 0;
        for curve in svg.split("points=\"").skip(1) {
            for point in curve.split('"').next().unwrap().split(' ') {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT..=WIDTH - RIGHT).contains(&x), "{point}");
                assert!((TOP..=HEIGHT - BOTTOM).contains(&y), "{point}");
                points += 1;
            }
        }
        assert!(points > 50, "{points}");
    }
}
