//! What goes wrong, and how it is put right.

use std::{sync::Arc, time::Duration};

use lianxi_node::domain::unit::{Level, UnitCode};
use tokio::time::sleep;

use super::{network, world::World};

/// Longest time for everything to be up again.
const STARTING: Duration = Duration::from_secs(120);

/// Lets things go wrong until all is calm.
pub(super) async fn cause(world: Arc<World>) {
    let hosts = world.city.hosts();
    let children: Vec<_> = world.city.members.iter().skip(1).map(|it| it.code.clone()).collect();
    loop {
        let pause = world.draw(|numbers| numbers.millis(500, 15_000));
        sleep(pause).await;
        if world.is_calm() {
            return;
        }
        let (kind, host, child) = world.draw(|numbers| {
            (numbers.below(20), numbers.pick(&hosts).clone(), numbers.pick(&children).clone())
        });
        match kind {
            0..3 => tokio::spawn(cut_off(Arc::clone(&world), vec![child])),
            3 => tokio::spawn(cut_off(Arc::clone(&world), branch(&world))),
            4..7 => {
                network::disturb(&world, &child);
                continue;
            }
            7..9 => tokio::spawn(crash(Arc::clone(&world), host, None)),
            9..13 => {
                let steps = world.draw(|numbers| 1 + numbers.below(120) as u32);
                tokio::spawn(crash(Arc::clone(&world), host, Some(steps)))
            }
            13 => tokio::spawn(stop(Arc::clone(&world), host)),
            14 | 15 => tokio::spawn(slow(Arc::clone(&world), host)),
            16 => tokio::spawn(full(Arc::clone(&world), host)),
            17 | 18 => {
                world.hosts[&host].back_up(&world);
                world.count("backup", host);
                continue;
            }
            _ => tokio::spawn(restore(Arc::clone(&world))),
        };
    }
}

/// A district with some of its streets.
fn branch(world: &World) -> Vec<UnitCode> {
    let districts = world.city.of_level(Level::District);
    let district = world.draw(|numbers| numbers.pick(&districts).code.clone());
    let streets = world.city.children(&district).filter(|_| world.draw(|it| it.coin()));
    let mut branch: Vec<_> = streets.map(|street| street.code.clone()).collect();
    branch.push(district);
    branch
}

async fn cut_off(world: Arc<World>, units: Vec<UnitCode>) {
    for unit in &units {
        network::part(&world, unit);
    }
    let time = world.draw(|numbers| numbers.millis(1_000, 180_000));
    sleep(time).await;
    for unit in &units {
        network::join(&world, unit);
    }
}

async fn crash(world: Arc<World>, host: UnitCode, steps: Option<u32>) {
    let ill = &world.hosts[&host];
    if !ill.is_running() {
        return;
    }
    match steps {
        None => ill.crash(&world, "at once"),
        Some(steps) => {
            ill.ail(&world, |ailments| ailments.crash_in = Some(steps));
            while ill.is_running() && !world.is_calm() {
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    let time = world.draw(|numbers| numbers.millis(100, 60_000));
    sleep(time).await;
    // It may fall over again on its way up.
    if world.draw(|numbers| numbers.one_in(6)) && !world.is_calm() {
        let steps = world.draw(|numbers| 1 + numbers.below(40) as u32);
        ill.ail(&world, |ailments| ailments.crash_in = Some(steps));
        ill.start(&world);
        sleep(Duration::from_secs(20)).await;
    }
    ill.start(&world);
}

async fn stop(world: Arc<World>, host: UnitCode) {
    world.hosts[&host].stop(&world).await;
    let time = world.draw(|numbers| numbers.millis(100, 60_000));
    sleep(time).await;
    world.hosts[&host].start(&world);
}

async fn slow(world: Arc<World>, host: UnitCode) {
    world.count("slow", &host);
    world.hosts[&host].ail(&world, |ailments| ailments.slow = true);
    let time = world.draw(|numbers| numbers.millis(5_000, 90_000));
    sleep(time).await;
    world.hosts[&host].ail(&world, |ailments| ailments.slow = false);
}

async fn full(world: Arc<World>, host: UnitCode) {
    world.count("full disk", &host);
    world.hosts[&host].ail(&world, |ailments| ailments.full = true);
    let time = world.draw(|numbers| numbers.millis(5_000, 120_000));
    sleep(time).await;
    world.hosts[&host].ail(&world, |ailments| ailments.full = false);
}

/// Brings a backup back: the host crashed, or was stopped in order.
async fn restore(world: Arc<World>) {
    let backed_up = world.hosts.values().filter(|host| host.backups() > 0 && host.is_running());
    let backed_up: Vec<_> = backed_up.map(|host| host.code.clone()).collect();
    if backed_up.is_empty() {
        return;
    }
    let code = world.draw(|numbers| numbers.pick(&backed_up).clone());
    let host = &world.hosts[&code];
    if world.draw(|numbers| numbers.coin()) {
        host.crash(&world, "for good");
    } else {
        host.stop(&world).await;
    }
    if !world.is_calm() {
        host.restore(&world);
    }
    let time = world.draw(|numbers| numbers.millis(100, 30_000));
    sleep(time).await;
    host.start(&world);
}

/// Puts everything right and starts what is down.
pub(super) async fn heal(world: &Arc<World>) {
    for unit in network::parted(world) {
        network::join(world, &unit);
    }
    let end = world.elapsed() + STARTING;
    loop {
        let mut all = true;
        for host in world.hosts.values() {
            host.ail(world, |ailments| *ailments = super::node::Ailments::default());
            if !host.is_running() {
                all = false;
                host.start(world);
            }
        }
        if all || world.failure().is_some() {
            return;
        }
        if world.elapsed() > end {
            return world.fail("a host does not come up again");
        }
        sleep(Duration::from_millis(500)).await;
    }
}
