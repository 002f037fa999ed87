//! Plots, as SVG.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use plotters::prelude::*;

use crate::{report::Plot, results::Results};

const SIZE: (u32, u32) = (800, 480);

/// Colours that people who see few of them can still tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// Draws every plot into a directory.
pub(crate) fn draw(directory: &Path, all: &[Results]) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    for plot in all.iter().flat_map(|results| &results.outcome.plots) {
        let path = directory.join(format!("{}.svg", plot.name));
        let mut text = String::new();
        draw_one(plot, &mut text).with_context(|| format!("draw {}", plot.title))?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn draw_one(plot: &Plot, to: &mut String) -> Result<()> {
    let points = || plot.series.iter().flat_map(|series| &series.points);
    let (mut left, mut right, mut top) = (f64::MAX, f64::MIN, 0.0_f64);
    for (x, y) in points() {
        left = left.min(*x);
        right = right.max(*x);
        top = top.max(*y);
    }
    anyhow::ensure!(left < right, "there is nothing to draw a line between");
    let root = SVGBackend::with_string(to, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(drawing)?;
    let mut builder = ChartBuilder::on(&root);
    builder
        .caption(&plot.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(70);
    let high = top * 1.1;
    // The two differ in type, so what they have in common is a macro of each line.
    macro_rules! lines {
        ($chart:expr) => {{
            let mut chart = $chart;
            chart
                .configure_mesh()
                .x_desc(&plot.x)
                .y_desc(&plot.y)
                .x_label_formatter(&|x| format!("{x:.0}"))
                .y_label_formatter(&|y| format!("{y:.0}"))
                .light_line_style(TRANSPARENT)
                .draw()
                .map_err(drawing)?;
            for (series, colour) in plot.series.iter().zip(COLOURS.iter().cycle()) {
                let style = colour.stroke_width(2);
                chart
                    .draw_series(LineSeries::new(series.points.clone(), style).point_size(3))
                    .map_err(drawing)?
                    .label(&series.name)
                    .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .background_style(WHITE)
                .border_style(BLACK)
                .draw()
                .map_err(drawing)?;
        }};
    }
    if plot.log_x {
        lines!(
            builder
                .build_cartesian_2d((left..right).log_scale(), 0.0..high)
                .map_err(drawing)?
        );
    } else {
        lines!(
            builder
                .build_cartesian_2d(left..right, 0.0..high)
                .map_err(drawing)?
        );
    }
    root.present().map_err(drawing)
}

fn drawing(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("{error}")
}
