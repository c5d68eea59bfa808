//! socketioxide, driven by python-socketio's RedisManager: text events with one argument. Addresses as for Bun's server.
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use socketioxide::SocketIo;
use socketioxide::extract::SocketRef;

/// Packets that may wait for a client; above it they are dropped.
const WAITING: usize = 100_000;

#[derive(Deserialize)]
struct Emit<'a> {
    method: &'a str,
    event: String,
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    room: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (layer, io) = SocketIo::builder().max_buffer_size(WAITING).build_layer();
    io.ns("/", async |socket: SocketRef| {
        let query = socket.req_parts().uri.query().unwrap_or_default();
        let user = query.split('&').find_map(|pair| pair.strip_prefix("user=")).unwrap_or_default();
        socket.join([format!("user:{user}"), "group:staff".to_owned()]);
    });
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", std::env::var("REDIS_PORT")?))?;
    let mut subscription = client.get_async_pubsub().await?;
    subscription.subscribe("socketio").await?;
    tokio::spawn(async move {
        let mut messages = subscription.on_message();
        while let Some(message) = messages.next().await {
            let Ok(emit) = serde_json::from_slice::<Emit<'_>>(message.get_payload_bytes()) else { continue };
            let Some(data) = emit.data.first().filter(|_| emit.method == "emit") else { continue };
            let _ = match emit.room {
                Some(room) => io.to(room).emit(emit.event, data).await,
                None => io.emit(emit.event, data).await,
            };
        }
    });
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{}", std::env::var("PORT")?)).await?;
    axum::serve(listener, axum::Router::new().layer(layer)).await?;
    Ok(())
}
