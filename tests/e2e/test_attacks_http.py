import asyncio, json
from tests.support.people import Town, Person

async def raw(url, data, wait=1.0, half=False):
    host, port = url.removeprefix("http://").split(":")
    r, w = await asyncio.open_connection(host, int(port))
    w.write(data)
    out = b""
    closed = False
    try:
        async with asyncio.timeout(wait):
            while True:
                c = await r.read(65536)
                if not c:
                    closed = True
                    break
                out += c
    except TimeoutError:
        pass
    except ConnectionResetError:
        closed = "reset"
    w.close()
    return out, closed

from tests.support.process import ServerProcess
async def test_probe(server: ServerProcess, city: Town):
    town = city
    ada = await city.person("ada")
    h = b"Host: x\r\n"
    tok = b"Authorization: Bearer " + ada.access_token.encode() + b"\r\n"
    nxt = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"
    P = b"POST /auth/login HTTP/1.1\r\n" + h
    up = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
    cases = {
     "clte": P + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + nxt,
     "tecl": P + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + nxt,
     "tete": P + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + nxt,
     "te id": P + b"Transfer-Encoding: identity\r\n\r\n" + nxt,
     "te chunked,id": P + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + nxt,
     "te xchunked": P + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + nxt,
     "te sp": P + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + nxt,
     "te vt": P + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + nxt,
     "te gzip,chunked": P + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + nxt,
     "clcl": P + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde" + nxt,
     "clcl same": P + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}" + nxt,
     "cl list": P + b"Content-Length: 2, 2\r\n\r\n{}" + nxt,
     "cl +": P + b"Content-Length: +2\r\n\r\n{}" + nxt,
     "cl -": P + b"Content-Length: -2\r\n\r\n{}" + nxt,
     "cl _": P + b"Content-Length: 1_0\r\n\r\n{}        " + nxt,
     "cl hex": P + b"Content-Length: 0x2\r\n\r\n{}" + nxt,
     "cl arab": P + b"Content-Length: \xd9\xa2\r\n\r\n{}" + nxt,
     "cl huge": P + b"Content-Length: 99999999999999999999999\r\n\r\n{}" + nxt,
     "cl empty": P + b"Content-Length: \r\n\r\n{}" + nxt,
     "bad chunk": P + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n" + nxt,
     "neg chunk": P + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\n" + nxt,
     "0x chunk": P + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n" + nxt,
     "_ chunk": P + b"Transfer-Encoding: chunked\r\n\r\n0_2\r\n{}\r\n0\r\n\r\n" + nxt,
     "huge chunk": P + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}\r\n0\r\n\r\n" + nxt,
     "chunk lf": P + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n" + nxt,
     "chunk nocrlf": P + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}XX0\r\n\r\n" + nxt,
     "chunk ext": P + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n" + nxt,
     "chunk ext lf": P + b"Transfer-Encoding: chunked\r\n\r\n2;a\nb\r\n{}\r\n0\r\n\r\n" + nxt,
     "trailer": P + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n" + nxt,
     "bare lf": b"GET /live HTTP/1.1\nHost: x\n\n" + nxt,
     "bare lf hdr": b"GET /live HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n" + nxt,
     "bare cr": b"GET /live HTTP/1.1\r\nHost: x\rX-A: b\r\n\r\n" + nxt,
     "obs-fold": b"GET /live HTTP/1.1\r\nHost: x\r\nX-A: b\r\n c\r\n\r\n" + nxt,
     "first fold": b"GET /live HTTP/1.1\r\n Host: x\r\n\r\n" + nxt,
     "nul hdr": b"GET /live HTTP/1.1\r\nHost: x\r\nX-A: b\0c\r\n\r\n" + nxt,
     "nohost": b"GET /live HTTP/1.1\r\n\r\n" + nxt,
     "2host": b"GET /live HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n" + nxt,
     "hdr no colon": b"GET /live HTTP/1.1\r\nHost: x\r\nfoo\r\n\r\n" + nxt,
     "hdr empty": b"GET /live HTTP/1.1\r\nHost: x\r\n: foo\r\n\r\n" + nxt,
     "http 3.0": b"GET /live HTTP/3.0\r\nHost: x\r\n\r\n" + nxt,
     "http 0.9": b"GET /live\r\n\r\n" + nxt,
     "http 1.0 te": b"POST /auth/login HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + nxt,
     "method lower": b"get /live HTTP/1.1\r\nHost: x\r\n\r\n" + nxt,
     "method weird": b"G@T /live HTTP/1.1\r\nHost: x\r\n\r\n" + nxt,
     "target bad": b"GET live HTTP/1.1\r\nHost: x\r\n\r\n" + nxt,
     "target abs": b"GET http://evil/live HTTP/1.1\r\nHost: x\r\n\r\n" + nxt,
     "target abs bad": b"GET http://[::1/live HTTP/1.1\r\nHost: x\r\n\r\n" + nxt,
     "target abs port": b"GET http://x:99999999/live HTTP/1.1\r\nHost: x\r\n\r\n" + nxt,
     "star": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n" + nxt,
     "connect": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n" + nxt,
     "trace": b"TRACE /live HTTP/1.1\r\nHost: x\r\nX-Secret: canary\r\n\r\n" + nxt,
     "dotdot": b"GET /docs/../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
     "dotdot enc": b"GET /docs/%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1\r\nHost: x\r\n\r\n",
     "utf8 target": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n" + nxt,
     "crlf enc target": b"GET /x%0d%0aSet-Cookie:%20a=b HTTP/1.1\r\nHost: x\r\n\r\n",
     "slashes": b"GET //evil.example/ HTTP/1.1\r\nHost: x\r\n\r\n",
     "big header": b"GET /live HTTP/1.1\r\nHost: x\r\nX-A: " + b"a"*20000 + b"\r\n\r\n",
     "big target": b"GET /" + b"a"*20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
     "many headers": b"GET /live HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: a\r\n" % i for i in range(5000)) + b"\r\n",
     "expect": P + b"Expect: nonsense\r\nContent-Length: 2\r\n\r\n{}" + nxt,
     "expect100": P + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}" + nxt,
     "xrid": b"GET /live HTTP/1.1\r\nHost: x\r\nX-Request-Id: a%0d%0ab\r\n\r\n",
     "upgrade body cl other": b"POST /auth/login HTTP/1.1\r\nHost: x\r\n" + up + b"Content-Length: 2\r\n\r\n{}" + nxt,
     "upgrade te other": b"POST /auth/login HTTP/1.1\r\nHost: x\r\n" + up + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + nxt,
     "upgrade get other": b"GET /live HTTP/1.1\r\nHost: x\r\n" + up + b"\r\n" + nxt,
     "upgrade gw body": b"GET /gateway HTTP/1.1\r\nHost: x\r\n" + up + b"Content-Length: 35\r\n\r\n" + nxt,
     "upgrade gw te": b"GET /gateway HTTP/1.1\r\nHost: x\r\n" + up + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + nxt,
     "upgrade gw pipe": b"GET /gateway HTTP/1.1\r\nHost: x\r\n" + up + b"\r\n" + nxt,
     "upgrade gw badver": b"GET /gateway HTTP/1.1\r\nHost: x\r\n" + up.replace(b"13", b"12") + b"\r\n" + nxt,
     "upgrade gw post": b"POST /gateway HTTP/1.1\r\nHost: x\r\n" + up + b"\r\n" + nxt,
     "upgrade gw 1.0": b"GET /gateway HTTP/1.0\r\nHost: x\r\n" + up + b"\r\n" + nxt,
     "h2c": b"GET /live HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n" + nxt,
     "prism": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
     "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a"*40,
    }
    for name, data in cases.items():
        out, closed = await raw(town.url, data, 0.5)
        if b"aiohttp" in out or b"Python" in out: print("BANNER")
        n = out.count(b"HTTP/1.")
        lines = [l.decode() for l in out.split(b"\r\n") if l.startswith(b"HTTP/1.")]
        flag = "" if b"nosniff" in out or not out else "NOHARD "
        print(f"{name:22} {lines} closed={closed} {flag}{out[-70:] if n<2 else ''}")
