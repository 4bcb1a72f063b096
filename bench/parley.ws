# Parley for the peers' harness: sockets identify by their address, sends go over REST.
# {tok} is an access token, -v channel= names the channel, -v port= the port.
url ws://127.0.0.1:{port}/gateway?v=10&encoding=json&token={tok}
expect "t":"GUILD_CREATE"
beat 30 {"op":1,"d":null}
publish-http POST /messages
publish-header Authorization: Bearer {tok}
publish-header Content-Type: application/json
publish {"channel_id":"{channel}","content":"{msg}"}
