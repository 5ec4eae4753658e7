//! Nodes that tests may change or kill, each started when the first test asks for it.

use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::identity::{Authority, Identity, Peers};
use super::rabbitmq::{BrokerHandle, shared};
use super::tokens::TokenIssuer;

/// A node that tests may ask and change with `rabbitmqctl`: the shared one if it is ours, else a private one beside it.
pub(crate) async fn managed() -> &'static BrokerHandle {
    static BESIDE: OnceCell<BrokerHandle> = OnceCell::const_new();
    match &shared().await.node {
        Some(node) => node,
        None => BESIDE.get_or_init(BrokerHandle::start).await,
    }
}

/// A node whose TLS listener wants client certificates of an authority that the tests have, for connections to
/// [`SECURED_NAME`].
#[derive(Debug)]
pub(crate) struct Secured {
    pub(crate) node: BrokerHandle,
    pub(crate) authority: Authority,
    /// On the plain port its tokens are logins, too.
    pub(crate) tokens: TokenIssuer,
}

/// The only name in that node's certificate: 127.0.0.1 is not in it.
pub(crate) const SECURED_NAME: &str = "rabbit.test";

/// That node.
pub(crate) async fn secured() -> &'static Secured {
    static SECURED: OnceCell<Secured> = OnceCell::const_new();
    let start = async || {
        let authority = Authority::new();
        let tokens = TokenIssuer::new();
        let identity = Identity::of(&authority, &[SECURED_NAME], Peers::Certified);
        let identity = Identity { token_key: Some(tokens.key()), ..identity };
        Secured { node: BrokerHandle::start_with(Some(&identity)).await, authority, tokens }
    };
    SECURED.get_or_init(start).await
}

/// A node for one test at a time, which may kill it; it is running when the next test gets it.
pub(crate) async fn mortal() -> MutexGuard<'static, BrokerHandle> {
    static MORTAL: OnceCell<Mutex<BrokerHandle>> = OnceCell::const_new();
    let node = MORTAL.get_or_init(async || Mutex::new(BrokerHandle::start().await)).await;
    let mut node = node.lock().await;
    if !node.is_running() {
        node.restart().await;
    }
    node
}
