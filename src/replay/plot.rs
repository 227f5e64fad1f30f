//! The results of a replay as a picture: what each strategy cost against how often it met the target, and
//! how long clients waited.

use llm_router_logic::sim::Summary;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::error::Error;

type Drawn = Result<(), Box<dyn Error>>;

/// Width and height of the picture, in pixels.
const SIZE: (u32, u32) = (1_100, 900);
/// Colours of p50, p95 and p99.
const COLOURS: [RGBColor; 3] = [RGBColor(120, 170, 220), RGBColor(240, 160, 60), RGBColor(200, 70, 70)];
/// A time to first token drawn where none was served or it took no time: logarithms need one.
const LEAST_MS: f64 = 1.0;

/// Draws `results` as SVG.
///
/// # Errors
/// What kept it from being drawn.
pub(super) fn svg(results: &[Summary]) -> Result<String, String> {
    let mut text = String::new();
    draw(&mut text, results).map_err(|error| error.to_string())?;
    Ok(text)
}

fn draw(text: &mut String, results: &[Summary]) -> Drawn {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (upper, lower) = root.split_vertically(SIZE.1 / 2);
    cost_against_attainment(&upper, results)?;
    first_tokens(&lower, results)?;
    root.present()?;
    Ok(())
}

fn cost_against_attainment(area: &DrawingArea<SVGBackend<'_>, Shift>, results: &[Summary]) -> Drawn {
    let costs = || results.iter().map(|row| row.cost_usd.as_usd());
    let bound = results.first().map_or(0.0, |row| row.bound_cost_usd.as_usd());
    let low = costs().fold(bound, f64::min);
    let high = costs().fold(low + 1e-6, f64::max);
    let margin = (high - low) * 0.1;
    let mut chart = ChartBuilder::on(area)
        .caption("cost against attainment of the target", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d((low - margin)..(high + 2.0 * margin), 0.0..105.0)?;
    chart.configure_mesh().x_desc("cost in USD").y_desc("first token in time, %").draw()?;
    chart.draw_series(std::iter::once(PathElement::new(
        vec![(bound, 0.0), (bound, 105.0)],
        RGBColor(150, 150, 150).stroke_width(1),
    )))?;
    chart.draw_series(std::iter::once(Text::new(
        "no schedule costs less",
        (bound, 3.0),
        ("sans-serif", 12).into_font(),
    )))?;
    for (nth, row) in results.iter().enumerate() {
        let at = (row.cost_usd.as_usd(), row.slo_attainment * 100.0);
        let colour = Palette99::pick(nth).to_rgba();
        // Strategies that agree would write over each other.
        let offset = if nth % 2 == 0 { -14 } else { 6 };
        chart.draw_series(std::iter::once(
            EmptyElement::at(at)
                + Circle::new((0, 0), 5, colour.filled())
                + Text::new(row.strategy.clone(), (8, offset), ("sans-serif", 13).into_font()),
        ))?;
    }
    Ok(())
}

fn first_tokens(area: &DrawingArea<SVGBackend<'_>, Shift>, results: &[Summary]) -> Drawn {
    let percentiles = |row: &Summary| {
        [row.ttft_ms.p50, row.ttft_ms.p95, row.ttft_ms.p99].map(|ms| ms.unwrap_or(0.0).max(LEAST_MS))
    };
    let most = results.iter().flat_map(percentiles).fold(LEAST_MS * 10.0, f64::max);
    let names: Vec<&str> = results.iter().map(|row| row.strategy.as_str()).collect();
    let mut chart = ChartBuilder::on(area)
        .caption("time to first token: p50, p95, p99", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..results.len().max(1) as f64, (LEAST_MS..most * 1.5).log_scale())?;
    let name = |at: &f64| names.get(*at as usize).map_or_else(String::new, |name| (*name).to_owned());
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(results.len() + 1)
        .x_label_formatter(&name)
        .y_desc("milliseconds")
        .draw()?;
    for (nth, row) in results.iter().enumerate() {
        for (bar, (ms, colour)) in percentiles(row).into_iter().zip(COLOURS).enumerate() {
            let from = nth as f64 + 0.1 + 0.27 * bar as f64;
            chart.draw_series(std::iter::once(Rectangle::new(
                [(from, LEAST_MS), (from + 0.24, ms)],
                colour.filled(),
            )))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_router_logic::money::Money;
    use llm_router_logic::sim::Millis;

    fn row(strategy: &str, usd: f64, p50: Option<f64>) -> Summary {
        Summary {
            strategy: strategy.to_owned(),
            requests: 10,
            cost_usd: Money::from_usd(usd).unwrap(),
            saving_vs_external_usd: Money::ZERO,
            bound_cost_usd: Money::ZERO,
            captured_saving: None,
            slo_attainment: 0.9,
            ttft_ms: Millis { p50, p95: p50, p99: p50 },
            refused: 0,
            failed_attempts: 0,
            retries: 0,
            at_clusters: 0,
        }
    }

    #[test]
    fn a_picture_names_every_strategy_even_where_nothing_was_served() {
        let text = svg(&[row("slo", 1.0, Some(200.0)), row("random", 2.0, None)]).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
        assert!(text.matches("slo").count() >= 2 && text.matches("random").count() >= 2);
        assert!(svg(&[row("one", 0.0, None)]).is_ok(), "a single free strategy has no width");
        assert!(svg(&[]).is_ok());
    }
}
