//! One picture: for each row and profile a bar, how many times better than the best rival ours is, beside its target.

use std::fmt::Write as _;

use crate::results::Measured;

const BAR_HEIGHT: u32 = 18;
const LABEL_WIDTH: u32 = 170;
const WIDTH: u32 = 900;

/// Ratios reach from a tenth to a thousandfold; the axis is logarithmic.
const RATIO_MIN: f64 = 0.1;
const RATIO_MAX: f64 = 1000.0;

/// The picture as SVG.
pub(crate) fn ratios(all: &[Measured]) -> String {
    let height = BAR_HEIGHT * (all.len() as u32 + 2);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<text x=\"4\" y=\"13\">times better than the best rival (line: target)</text>\n"
    );
    // Writing into a text cannot fail.
    for mark in [0.1, 1.0, 10.0, 100.0, 1000.0] {
        let x = position(mark);
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" y1=\"{BAR_HEIGHT}\" x2=\"{x}\" y2=\"{height}\" stroke=\"#ddd\"/><text x=\"{x}\" y=\"{}\" \
             fill=\"#888\" text-anchor=\"middle\">{mark}×</text>",
            height - 4
        );
    }
    for (index, measured) in all.iter().enumerate() {
        let y = BAR_HEIGHT * (index as u32 + 1);
        let label = format!(
            "{} {} {}",
            measured.number,
            measured.name,
            measured.profile.name()
        );
        let _ = writeln!(svg, "<text x=\"4\" y=\"{}\">{label}</text>", y + 13);
        let Some(ratio) = measured.ratio() else { continue };
        let (from, to) = (
            position(1.0).min(position(ratio)),
            position(1.0).max(position(ratio)),
        );
        let colour = if ratio >= measured.factor { "#2a7" } else { "#c64" };
        let target = position(measured.factor);
        let _ = writeln!(
            svg,
            "<rect x=\"{from:.1}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/><line x1=\"{target:.1}\" \
             y1=\"{y}\" x2=\"{target:.1}\" y2=\"{}\" stroke=\"#000\"/><text x=\"{:.1}\" y=\"{}\">{ratio:.2}</text>",
            y + 3,
            (to - from).max(1.0),
            BAR_HEIGHT - 6,
            y + BAR_HEIGHT,
            to.max(target) + 4.0,
            y + 13,
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn position(ratio: f64) -> f64 {
    let share = (ratio.clamp(RATIO_MIN, RATIO_MAX) / RATIO_MIN).log10() / (RATIO_MAX / RATIO_MIN).log10();
    f64::from(LABEL_WIDTH) + share * f64::from(WIDTH - LABEL_WIDTH - 60)
}
