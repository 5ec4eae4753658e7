//! Plans against what is there already, and with few rights.

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::SecretString;
use sidebus::broker::amqp::{AmqpBroker, AmqpOptions};
use sidebus::broker::{Broker, BrokerError, Findings, SessionId};
use sidebus::domain::message::Value;
use sidebus::domain::topology::{Plan, Queue, Step, TopologyMode};

use crate::lab::{RabbitLab, declare};
use crate::support::rabbitmq;

/// A plan for one quorum queue.
fn quorum(lab: &RabbitLab, mode: TopologyMode) -> Arc<Plan> {
    let arguments = BTreeMap::from([("x-queue-type".to_owned(), Value::text("quorum"))]);
    let queue = Queue { name: lab.queue("work"), durable: true, auto_delete: false, exclusive: false, arguments };
    Arc::new(Plan { mode, steps: vec![Step::Queue(queue)] })
}

#[tokio::test]
async fn a_promised_queue_that_exists_as_classic_is_adopted() {
    let lab = RabbitLab::new().await;
    let session = lab.session().await;
    declare(&*session, &lab.queue("work")).await;
    let found = session.apply(quorum(&lab, TopologyMode::Create)).await;
    let adopted = vec![format!("queue {}", lab.queue("work"))];
    assert_eq!(found, Ok(Findings { created: Vec::new(), adopted }));
}

#[tokio::test]
async fn of_sidecars_that_start_at_once_each_has_the_queue() {
    let lab = RabbitLab::new().await;
    let (one, two) = tokio::join!(lab.session(), lab.session());
    declare(&*one, &lab.queue("other")).await;
    let plan = quorum(&lab, TopologyMode::Create);
    let both = tokio::join!(one.apply(Arc::clone(&plan)), two.apply(plan));
    assert!(both.0.is_ok() && both.1.is_ok(), "{both:?}");
}

#[tokio::test]
async fn verify_needs_no_right_to_configure_and_create_names_the_missing_one() {
    let shared = rabbitmq::shared().await;
    let Some(node) = &shared.node else {
        println!("skipped: users can be made on a private broker only");
        return;
    };
    let lab = RabbitLab::new().await;
    let user = rabbitmq::prefix();
    node.ctl(&["add_user", &user, "secret"]).await;
    node.ctl(&["set_permissions", &user, "^$", ".*", ".*"]).await;
    let (username, password) = (SecretString::from(user), SecretString::from("secret"));
    let broker = AmqpBroker::new(AmqpOptions { username, password, ..shared.options() });
    let session = broker.connect(SessionId(1)).await.expect("a session");
    let missing = session.apply(quorum(&lab, TopologyMode::Verify)).await;
    assert!(matches!(missing, Err(BrokerError::Missing { .. })), "{missing:?}");
    let refused = session.apply(quorum(&lab, TopologyMode::Create)).await;
    assert!(matches!(refused, Err(BrokerError::AccessRefused { .. })), "{refused:?}");
    declare(&*lab.session().await, &lab.queue("work")).await;
    let found = session.apply(quorum(&lab, TopologyMode::Verify)).await.expect("it exists now");
    assert_eq!(found.adopted, [format!("queue {}", lab.queue("work"))]);
}
