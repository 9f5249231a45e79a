//! Runs a plan: the nodes live on simulated hosts, clients write while there is trouble, and when all is healed a last client looks
//! whether all hold the same, and nothing that was acknowledged is lost.

use std::{
    cell::RefCell,
    path::Path,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};
use turmoil::{Builder, Sim};

use super::{
    client::{Answer, History, ask},
    plan::{Fault, Plan},
    stack::{Host, name},
    trace,
};
use crate::random::Random;

/// Unix milliseconds at which simulations begin.
pub const EPOCH_MS: u64 = 1_763_689_000_000;
/// What passes at a time for all hosts together.
pub const TICK: Duration = Duration::from_millis(5);
/// How long healed nodes may take to hold the same: what was given up is dialed again after 30 seconds at the latest.
const CONVERGENCE_MAX: Duration = Duration::from_secs(120);
/// From the healing until the writers have their last answers, and what expires has done so.
const SETTLING: Duration = Duration::from_secs(4);
const TABLES: [&str; 2] = ["one", "other"];
const EXPIRY: Duration = Duration::from_secs(2);

/// What a simulation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub acknowledged: usize,
    /// From the healing until all held the same.
    pub converged_after: Duration,
}

/// Runs the plan of a seed.
///
/// # Errors
/// What broke.
pub fn run(seed: u64) -> Result<Outcome, String> {
    simulate(seed, &Arc::new(AtomicU64::new(EPOCH_MS)))
}

/// As `run`, with all that happened.
pub fn run_traced(seed: u64) -> (Result<Outcome, String>, Vec<String>) {
    let clock = Arc::new(AtomicU64::new(EPOCH_MS));
    trace::record(&clock, || simulate(seed, &clock))
}

fn simulate(seed: u64, clock: &Arc<AtomicU64>) -> Result<Outcome, String> {
    let plan = Rc::new(Plan::of(seed));
    // In memory where there is such a place: what is not simulated is the disk.
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let directory = directory.expect("a temporary directory");
    let mut sim = Builder::new()
        .tick_duration(TICK)
        .simulation_duration(plan.troubled + CONVERGENCE_MAX + Duration::from_secs(60))
        .min_message_latency(plan.latency.0)
        .max_message_latency(plan.latency.1)
        .rng_seed(seed)
        .build();
    let hosts: Vec<Rc<Host>> = (0..plan.nodes)
        .map(|index| {
            let data = directory.path().join(name(index));
            let mut host = Host::new(index, seed, data, clock.clone());
            host.skew_ms = plan.skews_ms[index];
            host.begins_after = plan.begins[index];
            // The first found a cluster; the others know it, and one more.
            host.join =
                (0..index.min(2)).map(|other| format!("{}:{}", name(other), super::stack::PORT)).collect();
            Rc::new(host)
        })
        .collect();
    for host in &hosts {
        let host = host.clone();
        sim.host(name(host.index), move || host.clone().live());
    }
    let history = Rc::new(RefCell::new(History::default()));
    for writer in 0..plan.writers {
        let numbers = Numbers { random: Random::new(seed ^ (writer as u64 + 1) << 32), writer, count: 0 };
        sim.client(format!("writer{writer}"), write(plan.clone(), history.clone(), numbers));
    }
    let outcome = Rc::new(RefCell::new(None));
    sim.client("judge", judge(plan.clone(), history, outcome.clone()));
    drive(&mut sim, &plan, &hosts, clock)?;
    drop(sim);
    let outcome = outcome.borrow_mut().take();
    outcome.expect("the judge ended well")
}

/// Lets time pass and faults happen until all clients are done.
fn drive(sim: &mut Sim<'_>, plan: &Plan, hosts: &[Rc<Host>], clock: &AtomicU64) -> Result<(), String> {
    let mut faults = plan.faults.iter().peekable();
    let mut healed = false;
    loop {
        let elapsed = sim.elapsed();
        clock.store(EPOCH_MS + elapsed.as_millis() as u64, Ordering::SeqCst);
        while let Some((_, fault)) = faults.next_if(|(at, _)| *at <= elapsed) {
            apply(sim, hosts, *fault);
        }
        if !healed && elapsed >= plan.troubled {
            healed = true;
            for one in 0..plan.nodes {
                for other in one + 1..plan.nodes {
                    apply(sim, hosts, Fault::Heal(one, other));
                }
                if !sim.is_host_running(name(one)) {
                    apply(sim, hosts, Fault::Start(one));
                }
            }
        }
        if sim.step().map_err(|error| error.to_string())? {
            return Ok(());
        }
    }
}

fn apply(sim: &mut Sim<'_>, hosts: &[Rc<Host>], fault: Fault) {
    match fault {
        Fault::Cut(one, other) => sim.partition(name(one), name(other)),
        Fault::CutOneWay(one, other) => sim.partition_oneway(name(one), name(other)),
        Fault::Heal(one, other) => sim.repair(name(one), name(other)),
        Fault::Crash(node) => sim.crash(name(node)),
        Fault::Stop(node) => hosts[node].stop(),
        Fault::Start(node) => sim.bounce(name(node)),
        Fault::Leap(node, by_ms) => hosts[node].leap_ms.store(by_ms, Ordering::SeqCst),
        Fault::Return(node) => hosts[node].leap_ms.store(0, Ordering::SeqCst),
    }
}

/// Lets simulated time pass. Nobody really waits.
pub async fn pass(time: Duration) {
    sleep_until(Instant::now() + time).await;
}

/// The numbers that a writer puts: never the same twice, by nobody.
struct Numbers {
    random: Random,
    writer: usize,
    count: u64,
}

impl Numbers {
    fn next(&mut self) -> u64 {
        self.count += 1;
        self.writer as u64 * 1_000_000 + self.count
    }
}

async fn write(plan: Rc<Plan>, history: Rc<RefCell<History>>, mut numbers: Numbers) -> turmoil::Result {
    let begun = Instant::now();
    while begun.elapsed() < plan.troubled {
        let random = &mut numbers.random;
        pass(Duration::from_millis(random.below(0..plan.rest_max.as_millis() as u64))).await;
        let node = random.index(plan.nodes);
        let path = format!("/{}/key/k{}", TABLES[random.index(TABLES.len())], random.index(plan.keys));
        let kind = random.below(0..10);
        let expires = kind == 0;
        let query = match kind {
            0 => format!("?ttl={}s", EXPIRY.as_secs()),
            1 => "?w=majority&w_timeout=1s".to_owned(),
            _ => String::new(),
        };
        let (put, answer) = if kind < 7 {
            let number = numbers.next();
            let body = format!("{{\"value\":{number}}}");
            (Some(number), ask(node, Method::PUT, &format!("{path}{query}"), &body).await)
        } else {
            (None, ask(node, Method::DELETE, &path, "").await)
        };
        let version = match answer {
            // Nothing was there, and nothing was written.
            Some(Answer { status: 404, .. }) => continue,
            Some(Answer { status: 200, version, .. }) => {
                assert!(version.is_some(), "what was acknowledged has a version");
                version
            }
            // It may have been written, as where too few acknowledged it in time.
            Some(_) | None => None,
        };
        history.borrow_mut().note(&path, put, expires, version);
    }
    Ok(())
}

async fn judge(
    plan: Rc<Plan>,
    history: Rc<RefCell<History>>,
    outcome: Rc<RefCell<Option<Result<Outcome, String>>>>,
) -> turmoil::Result {
    pass(plan.troubled + SETTLING).await;
    let healed = Instant::now() - SETTLING;
    let history = history.take();
    let mut states = Vec::new();
    while healed.elapsed() < CONVERGENCE_MAX {
        states = look(plan.nodes).await;
        if states.iter().all(|state| state.is_ok() && *state == states[0]) {
            let acknowledged = history.acknowledged();
            let found = Outcome { acknowledged, converged_after: healed.elapsed() };
            *outcome.borrow_mut() = Some(check(&plan, &history).await.map(|()| found));
            return Ok(());
        }
        pass(Duration::from_millis(200)).await;
    }
    *outcome.borrow_mut() =
        Some(Err(format!("not the same everywhere after {CONVERGENCE_MAX:?}: {states:#?}")));
    Ok(())
}

/// The tables of all nodes, or what keeps one from being a whole member of the cluster.
pub async fn look(nodes: usize) -> Vec<Result<String, String>> {
    let mut states = Vec::new();
    for node in 0..nodes {
        states.push(look_at(node, nodes).await);
    }
    states
}

async fn look_at(node: usize, nodes: usize) -> Result<String, String> {
    let read = |path| async move {
        let answer = ask(node, Method::GET, path, "").await.ok_or("no answer")?;
        serde_json::from_str::<Value>(&answer.body).map_err(|error| error.to_string())
    };
    let cluster = read("/_/cluster").await?;
    let members = cluster["members"].as_array().ok_or("no members")?;
    let alive =
        members.iter().filter(|member| member["state"] == "alive" && member["linked"] == true).count();
    if alive + 1 != nodes {
        return Err(format!("not all are there: {cluster:#}"));
    }
    let tables = read("/_/tables").await?;
    Ok(tables.to_string())
}

async fn check(plan: &Plan, history: &History) -> Result<(), String> {
    for path in history.paths() {
        let mut first: Option<Answer> = None;
        for node in 0..plan.nodes {
            let answer = ask(node, Method::GET, &path, "").await;
            let answer = answer.ok_or_else(|| format!("{path}: no answer of {}", name(node)))?;
            history.check(&path, &answer).map_err(|broken| format!("{}: {broken}", name(node)))?;
            if let Some(first) = &first
                && (first.status, &first.version) != (answer.status, &answer.version)
            {
                return Err(format!("{path}: {} has another answer than {}", name(node), name(0)));
            }
            first = Some(answer);
        }
    }
    Ok(())
}
