//! Pictures of a comparison, as SVG.

use std::path::Path;

use hdrhistogram::Histogram;
use plotters::prelude::*;

use crate::measure::Figures;

const SIZE: (u32, u32) = (720, 400);
const COLOURS: [RGBColor; 2] = [RGBColor(31, 119, 180), RGBColor(255, 127, 14)];

/// A named line.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Line {
    /// Latencies in milliseconds by how rare they are: 1 for nine of ten, 2 for 99 of 100 …
    fn of_latencies(name: &str, histogram: &Histogram<u64>) -> Self {
        let points = (0..=50).map(|step| {
            let nines = f64::from(step) / 10.0;
            let quantile = 1.0 - 10_f64.powf(-nines);
            (nines, histogram.value_at_quantile(quantile) as f64 / 1e3)
        });
        Self {
            name: name.to_owned(),
            points: points.collect(),
        }
    }
}

/// Latencies and throughput of spans, each with the name of its target: `latency.svg` and
/// `throughput.svg`.
pub(crate) fn pictures(
    out: &Path,
    what: &str,
    spans: &[(&str, &Histogram<u64>, &Figures)],
) -> Result<(), String> {
    let latencies = spans
        .iter()
        .map(|(name, latency, _)| Line::of_latencies(name, latency));
    draw(
        &out.join("latency.svg"),
        what,
        [
            "nines: 1 is p90, 2 is p99, 3 is p99.9",
            "ms until delivered",
        ],
        &latencies.collect::<Vec<_>>(),
    )?;
    let throughput = spans.iter().map(|(name, _, figures)| Line {
        name: (*name).to_owned(),
        points: (figures.deliveries_by_second.iter().enumerate())
            .map(|(second, count)| (second as f64, *count as f64))
            .collect(),
    });
    draw(
        &out.join("throughput.svg"),
        what,
        ["second", "deliveries"],
        &throughput.collect::<Vec<_>>(),
    )
}

/// Draws a bar for each of these, the first of which is ours.
pub(crate) fn bars(path: &Path, title: &str, bars: &[(String, f64)]) -> Result<(), String> {
    draw_bars(path, title, bars).map_err(|error| format!("{}: {error}", path.display()))
}

fn draw_bars(
    path: &Path,
    title: &str,
    bars: &[(String, f64)],
) -> Result<(), Box<dyn std::error::Error>> {
    let longest = bars.iter().map(|(_, value)| *value).fold(1.0, f64::max);
    let root = SVGBackend::new(path, (SIZE.0, 60 + 34 * bars.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let black = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    root.draw(&Text::new(title.to_owned(), (16, 14), black(16)))?;
    for (place, (name, value)) in bars.iter().enumerate() {
        let top = 48 + 34 * place as i32;
        let colour = COLOURS[usize::from(place > 0)];
        let end = 170 + (value / longest * 420.0) as i32;
        root.draw(&Text::new(name.clone(), (16, top + 4), black(14)))?;
        root.draw(&Rectangle::new(
            [(170, top), (end, top + 22)],
            colour.filled(),
        ))?;
        let value = crate::report::rounded(*value);
        root.draw(&Text::new(value, (end + 8, top + 4), black(14)))?;
    }
    root.present()?;
    Ok(())
}

/// Draws lines over axes with these names.
fn draw(path: &Path, title: &str, axes: [&str; 2], lines: &[Line]) -> Result<(), String> {
    draw_lines(path, title, axes, lines).map_err(|error| format!("{}: {error}", path.display()))
}

fn draw_lines(
    path: &Path,
    title: &str,
    [x, y]: [&str; 2],
    lines: &[Line],
) -> Result<(), Box<dyn std::error::Error>> {
    let all = || lines.iter().flat_map(|line| &line.points);
    let right = all().map(|(x, _)| *x).fold(1.0, f64::max);
    let top = all().map(|(_, y)| *y).fold(0.001, f64::max) * 1.1;
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc(x)
        .y_desc(y)
        .light_line_style(WHITE)
        .draw()?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        chart
            .draw_series(LineSeries::new(
                line.points.iter().copied(),
                colour.stroke_width(2),
            ))?
            .label(&line.name)
            .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()?;
    root.present()?;
    Ok(())
}
