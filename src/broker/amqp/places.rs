//! The places where a node may answer: every address of every node, in any order. Knows no AMQP.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::options::{AmqpOptions, Node};
use crate::broker::BrokerError;

/// The addresses of a node, as this machine knows them now.
pub(super) fn resolve(node: &Node) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + use<> {
    let place = (node.host.clone(), node.port);
    async move { tokio::net::lookup_host(place).await.map(Iterator::collect) }
}

/// One address of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) node: Node,
    pub(super) address: SocketAddr,
}

/// Every address of every node, in any order, and why nodes have none. Ends within half of `limit`, which is that of
/// the whole look: a name that nobody resolves must leave time for the nodes whose names are good.
///
/// Nothing is remembered: a name that leads elsewhere is followed with the next look.
pub(super) async fn candidates<F>(
    options: &AmqpOptions,
    limit: Duration,
    resolve: impl Fn(&Node) -> F,
) -> (Vec<Place>, Vec<BrokerError>)
where
    F: Future<Output = io::Result<Vec<SocketAddr>>>,
{
    let look = |node: &Node| {
        let (node, found) = (node.clone(), timeout(limit / 2, resolve(node)));
        async move { (node, found.await) }
    };
    let (mut places, mut failures) = (Vec::new(), Vec::new());
    for (node, found) in join_all(options.nodes.iter().map(look)).await {
        let why = match found {
            Ok(Ok(addresses)) if !addresses.is_empty() => {
                places.extend(addresses.into_iter().map(|address| Place { node: node.clone(), address }));
                continue;
            }
            Ok(Ok(_)) => "the name has no address".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the name was not resolved within {:?}", limit / 2),
        };
        failures.push(BrokerError::Unreachable { endpoint: options.endpoint_of(&node), reason: why });
    }
    // In one order all sidecars would go to the first address, and after the loss of its node all to the second.
    fastrand::shuffle(&mut places);
    (places, failures)
}

/// Of what all places said, what to tell: what came from a node that was reached, before those that were not; else why
/// each was not.
pub(super) fn most_telling(options: &AmqpOptions, failures: Vec<BrokerError>) -> BrokerError {
    let mut reasons = Vec::new();
    for failure in failures {
        let BrokerError::Unreachable { endpoint, reason } = failure else { return failure };
        if options.nodes.len() > 1 {
            reasons.push(format!("{endpoint}: {reason}"));
        } else {
            reasons.push(reason);
        }
    }
    // The places come in another order each time, and the same reasons must read the same.
    reasons.sort();
    reasons.dedup();
    BrokerError::Unreachable { endpoint: options.endpoint(), reason: reasons.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::TlsFault;
    use crate::broker::amqp::options::tests::sample;

    fn nodes(hosts: &[&str]) -> AmqpOptions {
        let nodes = hosts.iter().map(|host| Node { host: (*host).to_owned(), port: 1 }).collect();
        AmqpOptions { nodes, ..sample(1) }
    }

    fn refused(endpoint: &str) -> BrokerError {
        BrokerError::Unreachable { endpoint: endpoint.to_owned(), reason: "refused".to_owned() }
    }

    #[tokio::test]
    async fn every_node_is_a_candidate_and_each_is_the_first_at_times() {
        let options = nodes(&["127.0.0.1", "127.0.0.2", "no-such-name.invalid"]);
        let mut firsts = std::collections::BTreeSet::new();
        for _ in 0..64 {
            let (places, failures) = candidates(&options, Duration::from_secs(20), resolve).await;
            assert_eq!((places.len(), failures.len()), (2, 1));
            firsts.insert(places[0].node.host.clone());
        }
        assert_eq!(firsts.len(), 2, "64 shuffles begin with each of two");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_hangs_leaves_half_of_the_time_for_the_others_and_is_told() {
        let options = nodes(&["good", "hangs"]);
        let resolve = |node: &Node| {
            let is_good = node.host == "good";
            async move {
                if is_good { Ok(vec![SocketAddr::from(([127, 0, 0, 1], 1))]) } else { std::future::pending().await }
            }
        };
        let (limit, start) = (Duration::from_secs(5), tokio::time::Instant::now());
        let (places, failures) = candidates(&options, limit, resolve).await;
        assert!(start.elapsed() <= limit * 6 / 10, "{:?}", start.elapsed());
        assert_eq!(places.iter().map(|place| place.node.host.as_str()).collect::<Vec<_>>(), ["good"]);
        let [BrokerError::Unreachable { endpoint, reason }] = failures.as_slice() else { panic!("{failures:?}") };
        assert!(endpoint.contains("hangs") && reason.contains("not resolved within 2.5s"), "{endpoint}: {reason}");
    }

    #[test]
    fn when_none_is_good_every_node_is_named_and_a_telling_error_comes_first() {
        let options = nodes(&["127.0.0.1", "127.0.0.2"]);
        let BrokerError::Unreachable { endpoint, reason } = most_telling(&options, vec![refused("a"), refused("b")])
        else {
            panic!("unreachable")
        };
        assert_eq!(endpoint, "amqp://127.0.0.1:1,127.0.0.2:1");
        assert_eq!(reason, "a: refused; b: refused");
        let tls = || BrokerError::Tls { endpoint: "x".into(), reason: "y".into(), fault: TlsFault::Expired };
        assert_eq!(most_telling(&options, vec![refused("a"), tls()]), tls());
    }
}
