//! Socket.IO clients while Redis is lost, and with several gateways.

use crate::support::socket_io::{POLL_V4, SocketIoGateway, V4, builder};
use crate::support::{RedisServer, within_deadline};

#[tokio::test]
async fn clients_outlive_redis_and_new_ones_get_503() {
    let mut redis = RedisServer::start();
    let (builder, channel) = builder();
    let gateway = builder.redis(&redis).start().await;
    let server = SocketIoGateway { gateway, channel: channel.clone() };
    let (mut socket, _) = server.connect("/").await;
    let (polling, _) = server.connect_polling().await;
    redis.kill();
    server.gateway.expect_log(&["redis lost"]).await;
    for refused in [server.gateway.request(V4), server.gateway.stream(POLL_V4).without("Accept")] {
        let refused = refused.expect_status(503).await;
        assert!(refused.header("retry-after").is_some());
    }
    // In a namespace that is joined now, messages would be missed.
    socket.send_text("40/chat,").await;
    socket.expect_close(1013).await;
    redis.restart();
    let emit = r#"{"method":"emit","event":"e","data":[1],"binary":false,"namespace":"/","room":null}"#;
    within_deadline("the channel is subscribed again", async {
        while redis.publish(&channel, emit) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(polling.poll().await, r#"42["e",1]"#);
}

#[tokio::test]
async fn while_redis_refuses_the_channel_no_client_is_told_that_it_is_connected() {
    let redis = RedisServer::start();
    let acl = |channels: &[&str]| {
        let command = ["ACL", "SETUSER", "gate", "reset", "on", ">secret", "+@all", "~*"];
        redis.command(&[&command[..], channels].concat());
    };
    acl(&["&*:broadcast:*"]);
    let (builder, channel) = builder();
    let url = format!("redis://gate:secret@127.0.0.1:{}", redis.port());
    let gateway = builder.redis(&redis).set("redis.url", &url).start().await;
    let server = SocketIoGateway { gateway, channel: channel.clone() };
    let handshakes = || [server.gateway.request(V4), server.gateway.stream(POLL_V4).without("Accept")];
    for refused in handshakes() {
        refused.expect_status(503).await;
    }
    server.gateway.request("/ws/room?subscribe-broadcast").expect_status(101).await;
    acl(&["&*"]);
    server.gateway.expect_log(&["redis allows a Socket.IO channel again"]).await;
    let (mut client, _) = server.connect("/").await;
    let (polling, _) = server.open_polling(POLL_V4).await;
    // Redis disconnects clients that are subscribed to a channel they lost permission for.
    acl(&["&*:broadcast:*"]);
    within_deadline("the channel is refused again", async {
        while server.gateway.count_log(&["redis refuses a Socket.IO channel"]) < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    client.send_text("40/chat,").await;
    client.expect_close(1013).await;
    polling.post("40").expect_status(400).await;
}

#[tokio::test]
async fn gateways_on_one_redis_serve_their_own_clients_and_ignore_the_others() {
    let one = SocketIoGateway::start().await;
    let (second, _) = builder();
    let gateway = second.set("socketio.redis_manager.channels", &one.channel).start().await;
    let two = SocketIoGateway { gateway, channel: one.channel.clone() };
    let (mut here, here_sid) = one.connect("/").await;
    let (mut there, there_sid) = two.connect("/").await;
    one.call("enter_room", "/", &there_sid, "room");
    one.emit("/", "\"room\"", "1");
    there.expect_text(r#"42["e",1]"#).await;
    one.emit("/", &format!("{here_sid:?}"), "2");
    here.expect_text(r#"42["e",2]"#).await;
    one.emit("/", "null", "3");
    here.expect_text(r#"42["e",3]"#).await;
    there.expect_text(r#"42["e",3]"#).await;
    one.call("disconnect", "/", &there_sid, "");
    there.expect_text("41").await;
    here.expect_nothing().await;
}
