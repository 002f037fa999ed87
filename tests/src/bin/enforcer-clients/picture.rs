//! The picture: in a black hole, each client's time without enforcer, with a `reject` and with a redirect.

use anyhow::Result;
use enforcer_tests::{
    clients::{measure::Outcome, world::Mode},
    lab::Breakage,
};
use plotters::prelude::*;

use crate::report::{Line, Report, text};

/// Colours that people who see few of them can still tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 3] = [RGBColor(213, 94, 0), RGBColor(0, 114, 178), RGBColor(0, 158, 115)];

const WIDTH: i32 = 860;
const LEFT: i32 = 250;
const RIGHT: i32 = 790;
const TOP: i32 = 84;
const BAR: i32 = 7;
const ROW: i32 = 3 * BAR + 9;

/// The axis, in milliseconds.
const FROM: f64 = 0.5;
const TO: f64 = 10_000.0;
const TICKS: [(f64, &str); 5] = [
    (1.0, "1 ms"),
    (10.0, "10 ms"),
    (100.0, "100 ms"),
    (1_000.0, "1 s"),
    (10_000.0, "10 s"),
];

/// Draws it, as SVG.
pub(crate) fn draw(report: &Report) -> Result<String> {
    let lines = report.lines();
    let is_wanted =
        |line: &&Line<'_>| line.breakage == Breakage::BlackHole && line.client.pictured && !line.contained;
    let rows: Vec<_> = lines.iter().filter(is_wanted).collect();
    let height = TOP + ROW * i32::try_from(rows.len())? + 40;
    let mut svg = String::new();
    {
        let size = (u32::try_from(WIDTH)?, u32::try_from(height)?);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE).map_err(drawing)?;
        let label = ("sans-serif", 13).into_font();
        let title = "A name with both addresses, its IPv6 a black hole: time until the client has its answer (outlined: it fails)";
        let shown = Text::new(title, (12, 12), ("sans-serif", 16).into_font());
        root.draw(&shown).map_err(drawing)?;
        for (index, (mode, colour)) in names().into_iter().zip(COLOURS).enumerate() {
            let left = LEFT + 190 * i32::try_from(index)?;
            let patch = Rectangle::new([(left, 42), (left + 12, 54)], colour.filled());
            root.draw(&patch).map_err(drawing)?;
            root.draw(&Text::new(mode, (left + 18, 42), label.clone()))
                .map_err(drawing)?;
        }
        let bottom = height - 36;
        for (ms, name) in TICKS {
            let x = position(ms);
            let line = PathElement::new(vec![(x, TOP - 6), (x, bottom)], RGBColor(210, 210, 210));
            root.draw(&line).map_err(drawing)?;
            root.draw(&Text::new(name, (x - 14, bottom + 6), label.clone()))
                .map_err(drawing)?;
        }
        for (index, row) in rows.iter().enumerate() {
            let top = TOP + ROW * i32::try_from(index)?;
            let name = Text::new(row.client.name, (12, top + 4), label.clone());
            root.draw(&name).map_err(drawing)?;
            for (bar, (mode, colour)) in Mode::ALL.into_iter().zip(COLOURS).enumerate() {
                let cell = row.cells.of(mode);
                let y = top + BAR * i32::try_from(bar)?;
                let end = position(cell.ms);
                let shape = [(position(FROM), y), (end, y + BAR - 1)];
                let style = match cell.arrived() {
                    true => colour.filled(),
                    // What failed is an outline only.
                    false => colour.stroke_width(1),
                };
                root.draw(&Rectangle::new(shape, style)).map_err(drawing)?;
                let small = ("sans-serif", 9).into_font();
                let said = match cell.outcome {
                    Outcome::Arrived(_) => continue,
                    _ => text(cell),
                };
                root.draw(&Text::new(said, (end + 4, y - 1), small))
                    .map_err(drawing)?;
            }
        }
        root.present().map_err(drawing)?;
    }
    Ok(svg)
}

/// What each bar is.
fn names() -> [&'static str; 3] {
    ["without enforcer", "with a reject", "with a redirect"]
}

fn position(ms: f64) -> i32 {
    let share = (ms.clamp(FROM, TO) / FROM).ln() / (TO / FROM).ln();
    #[expect(clippy::cast_possible_truncation, reason = "a pixel of a small picture")]
    let offset = (share * f64::from(RIGHT - LEFT)).round() as i32;
    LEFT + offset
}

fn drawing(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("{error}")
}
