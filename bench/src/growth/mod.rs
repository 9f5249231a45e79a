//! `dynarust-bench growth`: how cost grows with the number of rows and of nodes. Each point starts nodes of its own with so many rows; the
//! result is a line of JSON for each, and a plot of all. One node has a second line, of what it costs two of them to find a row that differs: for
//! very many rows that takes longer than all else.
//!
//! All nodes and the load share one machine, so the rates of clusters are those of its cores; processor time of an operation is not.

mod measure;
mod plot;

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    cluster::{unless_interrupted, workspace::WorkspaceOptions},
    error::{Error, Result},
    options::LoadOptions,
};

/// What is measured, and how.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Arguments {
    /// Numbers of rows; 10000000 takes an hour
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000", value_parser = clap::value_parser!(u64).range(1000..))]
    pub rows: Vec<u64>,
    /// Numbers of nodes
    #[arg(long, value_delimiter = ',', default_value = "1,3,5", value_parser = clap::value_parser!(u64).range(1..=16))]
    pub nodes: Vec<u64>,
    /// Plot into this file
    #[arg(long, value_name = "PATH")]
    pub svg: Option<PathBuf>,
    /// Measure nothing, and plot the lines of this file
    #[arg(long, value_name = "PATH", requires = "svg")]
    pub from: Option<PathBuf>,
    /// Where nodes run, and from what.
    #[command(flatten)]
    pub workspace: WorkspaceOptions,
    /// How much load, for how long.
    #[command(flatten)]
    pub load: LoadOptions,
}

/// What so many rows cost so many nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    rows: u64,
    nodes: u64,
    /// By name; the names end with their units.
    figures: BTreeMap<String, f64>,
}

/// Measures all points, prints each as a line of JSON, and plots them.
pub async fn run(arguments: &Arguments) -> Result<()> {
    unless_interrupted(measure_all(arguments)).await
}

async fn measure_all(arguments: &Arguments) -> Result<()> {
    let points = match &arguments.from {
        Some(path) => read(path)?,
        None => measured(arguments).await?,
    };
    let Some(path) = &arguments.svg else { return Ok(()) };
    fs::write(path, plot::svg(&points)).map_err(|e| Error::io(format_args!("writing {}", path.display()), &e))
}

async fn measured(arguments: &Arguments) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for &rows in &arguments.rows {
        let load = LoadOptions { keys: rows, runs: 1, ..arguments.load.clone() };
        for &nodes in &arguments.nodes {
            let mut add = |figures| {
                let point = Point { rows, nodes, figures };
                println!("{}", serde_json::to_string(&point).expect("names and numbers are JSON"));
                points.push(point);
            };
            let workspace = || arguments.workspace.create(&load.table);
            if nodes == 1 {
                add(measure::alone(&workspace()?, &load).await?);
                add(measure::comparison(&workspace()?, &load).await?);
            } else {
                add(measure::cluster(&workspace()?, nodes as usize, &load).await?);
            }
        }
    }
    Ok(points)
}

fn read(path: &PathBuf) -> Result<Vec<Point>> {
    let text =
        fs::read_to_string(path).map_err(|e| Error::io(format_args!("reading {}", path.display()), &e))?;
    let point = |(number, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|why| Error::Usage(format!("{}, line {}: {why}", path.display(), number + 1)))
    };
    text.lines().enumerate().map(point).collect()
}
