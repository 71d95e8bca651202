//! The picture of the shards: one cell for each, coloured by owner, and marked while it
//! is on its way. One path for all cells of a kind keeps it small.

use std::fmt::Write;
use std::ops::Range;

use maud::{Markup, html};
use perennial_persistence::registry::NodeNr;

use super::overview::{Overview, Place};
use super::shown::count;

/// How many nodes look different.
pub(super) const COLOURS: u64 = 8;
/// Length of a cell's side, and what is left free of it.
const CELL: u32 = 10;
const FILLED: u32 = 9;

/// What a cell, or a half of it, looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Square,
    /// The half towards the old owner, and towards the new one.
    LowerLeft,
    UpperRight,
}

/// The picture, with a description for those who do not see it. Shards of a node stand
/// together: their numbers say nothing of where they are, and how many a node has is
/// seen at a glance.
pub(super) fn picture(overview: &Overview) -> Markup {
    let columns = columns(overview.state.number_of_shards());
    let rows = overview.state.number_of_shards().div_ceil(columns);
    let view = format!("0 0 {} {}", columns * CELL - 1, rows * CELL - 1);
    let colour = |node: NodeNr| overview.colour(node);
    html! {
        svg .shards role="img" aria-labelledby="shards-title shards-description" viewBox=(view) {
            title #shards-title { "Shards by node" }
            desc #shards-description { (description(overview)) }
            @for (place, cells) in cells_of(overview) {
                @let cells = |shape| path(&cells, rows, shape);
                @match place {
                    Place::Owned(node) => path class=(colour(node)) d=(cells(Shape::Square)) {},
                    Place::Moving(from, to) => {
                        path class=(colour(from)) d=(cells(Shape::LowerLeft)) {}
                        path class=(colour(to)) d=(cells(Shape::UpperRight)) {}
                        path .moving d=(cells(Shape::Square)) {}
                    }
                    Place::Fencing(node) => {
                        path class={ "fencing " (colour(node)) } d=(cells(Shape::Square)) {}
                    }
                    Place::Homeless => path .homeless d=(cells(Shape::Square)) {},
                }
            }
        }
    }
}

/// Cells are counted down one column after the other; each node's follow each other,
/// those that stay before those that do not.
fn cells_of(overview: &Overview) -> Vec<(Place, Range<u32>)> {
    let mut places: Vec<(Place, u32)> = overview
        .places()
        .into_iter()
        .map(|(place, shards)| (place, shards.len() as u32))
        .collect();
    let order = |place: Place| (place.owner().is_none(), place.owner(), place);
    places.sort_by_key(|(place, _)| order(*place));
    let mut next = 0;
    let cells = places.into_iter().map(|(place, count)| {
        next += count;
        (place, next - count..next)
    });
    cells.collect()
}

/// About four times as wide as high.
fn columns(shards: u32) -> u32 {
    let columns = (f64::from(shards) * 4.0).sqrt().ceil() as u32;
    // 1024 shards make 64 columns: other numbers get a power of two as well.
    columns.next_power_of_two().max(1)
}

fn path(cells: &Range<u32>, rows: u32, shape: Shape) -> String {
    let mut path = String::with_capacity(cells.len() * 18);
    for cell in cells.clone() {
        let (x, y) = (cell / rows * CELL, cell % rows * CELL);
        // Writing to a text cannot fail.
        let _ = match shape {
            Shape::Square => write!(path, "M{x} {y}h{FILLED}v{FILLED}h-{FILLED}z"),
            Shape::LowerLeft => write!(path, "M{x} {y}v{FILLED}h{FILLED}z"),
            Shape::UpperRight => write!(path, "M{x} {y}h{FILLED}v{FILLED}z"),
        };
    }
    path
}

/// What the picture says, in words.
fn description(overview: &Overview) -> String {
    let mut parts = Vec::new();
    for member in overview.members() {
        let owned = overview.state.shards_of(member.node).count() as u64;
        parts.push(format!("node {} has {}", member.node.0, count(owned)));
    }
    let places = overview.places();
    let of = |is: fn(&Place) -> bool| {
        let shards = places.iter().filter(|(place, _)| is(place));
        shards.map(|(_, shards)| shards.len() as u64).sum::<u64>()
    };
    for (what, number) in [
        ("are handed off", of(|it| matches!(it, Place::Moving(..)))),
        ("wait for a fence", of(|it| matches!(it, Place::Fencing(_)))),
        ("have no home", of(|it| matches!(it, Place::Homeless))),
    ] {
        if number > 0 {
            parts.push(format!("{} {what}", count(number)));
        }
    }
    let shards = overview.state.number_of_shards();
    format!("Of {} shards, {}.", count(shards.into()), parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_a_cell_of_its_own() {
        assert_eq!((columns(1024), columns(60), columns(1)), (64, 16, 2));
        let path = path(&(0..1024), 16, Shape::Square);
        let mut corners: Vec<&str> = path.split('z').filter(|cell| !cell.is_empty()).collect();
        assert_eq!(corners.first(), Some(&"M0 0h9v9h-9"));
        assert_eq!(corners.last(), Some(&"M630 150h9v9h-9"));
        corners.sort_unstable();
        corners.dedup();
        assert_eq!(corners.len(), 1024);
    }
}
