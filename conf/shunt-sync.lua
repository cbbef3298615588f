-- Shows Shunt's session sync (src/sync/mod.rs) in Wireshark and tshark.
--
-- Once:    tshark -X lua_script:shunt-sync.lua -r FILE -V
-- Always:  copy it to the personal plugins folder (Wireshark: Help, About, Folders).
--
-- It takes UDP port 8849 (a preference of the protocol) and whatever else on UDP begins with the
-- magic. Display filters begin with `shuntsync.`, as `shuntsync.client_port == 4711`. MACs are shown,
-- not checked.

local VERSION = 1
local HEADER = 48

local sync = Proto("shuntsync", "Shunt session sync")
sync.prefs.port = Pref.uint("UDP port", 8849, "Port of ha.sync_group")

local kinds = { [0] = "stream", [1] = "control", [2] = "relay" }
local protocols = { [1] = "icmp", [6] = "tcp", [17] = "udp" }
local states = {
    [0] = "udp", [1] = "syn_sent", [2] = "syn_received", [3] = "established", [4] = "fin_client",
    [5] = "fin_server", [6] = "fin_both", [7] = "closed", [8] = "time_wait", [9] = "contested",
    [10] = "syn_proxied",
}
local modes = {
    [0] = "nat", [1] = "fullnat", [2] = "dr", [3] = "snat", [4] = "ipip", [5] = "gre", [6] = "gue",
    [7] = "vxlan",
}
local reasons = { [0] = "expired", [1] = "replaced", [2] = "withdrawn", [3] = "unanswered" }
local types = {
    [1] = "SESSION v4", [2] = "SESSION v6", [3] = "CLOSE v4", [4] = "CLOSE v6", [5] = "TOUCH v4",
    [6] = "TOUCH v6", [7] = "PERSIST v4", [8] = "PERSIST v6", [9] = "BEGIN", [10] = "END",
    [11] = "DIGEST", [32] = "HELLO", [33] = "ACK", [34] = "NAK", [35] = "GONE", [36] = "WANT",
    [37] = "PORT",
}

-- Every field by its name: of the header, then of records.
local f = {}
local function field(name, make, label, ...)
    f[name] = make("shuntsync." .. name, label, ...)
end
local function number(name, size, label, names)
    if names then
        field(name, ProtoField["uint" .. size], label, base.DEC, names)
    else
        field(name, ProtoField["uint" .. size], label)
    end
end
local function hex(name, size, label)
    field(name, ProtoField["uint" .. size], label, base.HEX)
end
local function bits(name, size, width, names)
    for bit, label in pairs(names) do
        f[name .. "." .. label] =
            ProtoField.bool("shuntsync." .. name .. "." .. label, label, width, nil, 2 ^ bit)
    end
    hex(name, size, name)
end

hex("magic", 16, "Magic")
number("version", 8, "Version")
number("kind", 8, "Kind", kinds)
number("node", 8, "Node of the sender")
number("from_worker", 8, "Worker of the sender")
number("to", 8, "Worker of the receiver", { [255] = "the one that serves the sender's worker" })
bits("flags", 8, 8, { [0] = "repeated" })
hex("boot", 64, "Boot")
number("sequence", 64, "Sequence")
hex("key_id", 32, "Key")
hex("reserved", 32, "Reserved")
field("mac", ProtoField.bytes, "MAC")
number("port", 8, "Port")

number("type", 8, "Type", types)
number("length", 8, "Length")
field("unknown", ProtoField.bytes, "Not known")
number("born", 32, "Born")
number("protocol", 8, "Protocol", protocols)
number("state", 8, "State", states)
number("mode", 8, "Mode", modes)
bits("doubt", 8, 8, { [4] = "by_server", [5] = "adopted" })
hex("scales", 8, "Window scales (server, client)")
bits("presence", 8, 8, { [0] = "shifts", [1] = "server_ip" })
bits("extras", 16, 16, {
    [0] = "policed", [1] = "mirrored", [2] = "shifted", [3] = "introduced", [4] = "marked",
    [5] = "proxied", [10] = "crossed", [11] = "proxy_v1", [12] = "proxy_v2", [13] = "told",
    [15] = "hairpin",
})
number("idle", 32, "Idle (ms)")
number("age", 32, "Age (ms)")
number("timeout", 32, "Timeout (ms)")
for _, name in ipairs({ "client", "vip", "local", "server" }) do
    field(name .. "4", ProtoField.ipv4, name)
    field(name .. "6", ProtoField.ipv6, name)
end
number("client_port", 16, "client port")
number("vip_port", 16, "vip port")
number("local_port", 16, "local port")
number("server_port", 16, "server port")
number("forward_end", 32, "Client's stream is at")
number("reply_end", 32, "Server's stream is at")
number("forward_shift", 32, "Forward shift")
number("reply_shift", 32, "Reply shift")
number("time_shift", 32, "Time shift")
number("shift_at", 32, "Shift at")
hex("note", 32, "Note")
field("server_ip", ProtoField.ipv6, "server (IPv4 mapped)")
number("reason", 8, "Reason", reasons)
hex("scope", 64, "Scope")
number("life", 32, "Life (ms)")
field("buckets", ProtoField.bytes, "Buckets (128 bits, the highest first)")
number("total", 32, "Sessions that follow")
number("bucket", 8, "Bucket")
number("count", 32, "Sessions")
hex("xor", 64, "XOR of their identities")
hex("challenge", 64, "Challenge")
hex("echo", 64, "Echo")
hex("peer_boot", 64, "Boot of the peer")
number("workers", 8, "Workers")
bits("hello", 8, 8, { [0] = "synced", [1] = "leaving", [2] = "lacking" })
number("stream", 64, "Highest sequence of the stream")
hex("config", 64, "Digest of the configuration")
field("release", ProtoField.string, "Version of Shunt")
number("lacking", 32, "Sessions that could not be taken in")
number("worker", 8, "Worker whose stream it is")
number("contiguous", 64, "Everything has come up to")
number("highest", 64, "Highest known")
number("from", 64, "From")
number("asked", 16, "How many")
number("through", 64, "Gone through")
number("index", 8, "Port")
field("ether", ProtoField.ether, "MAC address")
field("address4", ProtoField.ipv4, "IPv4 address")
number("prefix4", 8, "IPv4 prefix length")
field("address6", ProtoField.ipv6, "IPv6 address")
number("prefix6", 8, "IPv6 prefix length")

local all = {}
for _, one in pairs(f) do all[#all + 1] = one end
sync.fields = all

local malformed = ProtoExpert.new("shuntsync.malformed", "This cannot be read", expert.group.MALFORMED,
    expert.severity.ERROR)
local other_version = ProtoExpert.new("shuntsync.other_version", "Another version of the protocol",
    expert.group.UNDECODED, expert.severity.WARN)
sync.experts = { malformed, other_version }

-- Names of fields that have bits of their own.
local sets = {
    flags = { "repeated" }, doubt = { "by_server", "adopted" }, presence = { "shifts", "server_ip" },
    hello = { "synced", "leaving", "lacking" },
    extras = { "policed", "mirrored", "shifted", "introduced", "marked", "proxied", "crossed",
        "proxy_v1", "proxy_v2", "told", "hairpin" },
}

-- Adds the field `name` of `size` bytes at `at`.
local function add(tree, name, buffer, at, size)
    local item = tree:add(f[name], buffer(at, size))
    for _, label in ipairs(sets[name] or {}) do
        item:add(f[name .. "." .. label], buffer(at, size))
    end
    return at + size
end

-- The fields of each type of record: name and size, where 0 is an address of the record's family. A
-- record of an earlier version may end before one with `ends`.
local endpoints = { { "client", 0 }, { "vip", 0 } }
local two_ports = { { "client_port", 2 }, { "vip_port", 2 } }
local ends = { { "forward_end", 4 }, { "reply_end", 4 } }
local function join(...)
    local joined = {}
    for _, part in ipairs({ ... }) do
        for _, one in ipairs(part) do joined[#joined + 1] = one end
    end
    return joined
end
local session = join(
    { { "born", 4 }, { "protocol", 1 }, { "state", 1 }, { "mode", 1 }, { "doubt", 1 },
        { "scales", 1 }, { "presence", 1 }, { "extras", 2 }, { "idle", 4 }, { "age", 4 },
        { "timeout", 4 } },
    endpoints, { { "local", 0 }, { "server", 0 } },
    two_ports, { { "local_port", 2 }, { "server_port", 2 } }, ends)
local shifts = {
    { "forward_shift", 4 }, { "reply_shift", 4 }, { "time_shift", 4 }, { "shift_at", 4 },
    { "note", 4 },
}
local server_ip = { { "server_ip", 16 } }
local close = join({ { "born", 4 }, { "reason", 1 }, { "protocol", 1 } }, endpoints, two_ports)
local touch = join({ { "born", 4 }, { "idle", 4 }, { "protocol", 1 }, { "state", 1 } }, endpoints,
    two_ports, ends)
local persist = { { "scope", 8 }, { "life", 4 }, { "client", 0 }, { "server_ip", 16 } }
local buckets = { { "buckets", 16 } }
local layouts = {
    [1] = session, [2] = session, [3] = close, [4] = close, [5] = touch, [6] = touch,
    [7] = persist, [8] = persist, [9] = join(buckets, { { "total", 4, ends = true } }), [10] = buckets, [36] = buckets,
    [11] = { { "bucket", 1 }, { "count", 4 }, { "xor", 8 } },
    [32] = { { "challenge", 8 }, { "echo", 8 }, { "peer_boot", 8 }, { "workers", 1 }, { "hello", 1 },
        { "stream", 8 }, { "config", 8 }, { "release", 16 }, { "lacking", 4, ends = true } },
    [33] = { { "worker", 1 }, { "contiguous", 8 }, { "highest", 8 } },
    [34] = { { "worker", 1 }, { "from", 8 }, { "asked", 2 } },
    [35] = { { "through", 8 } },
    [37] = { { "index", 1 }, { "ether", 6 }, { "address4", 4 }, { "prefix4", 1 },
        { "address6", 16 }, { "prefix6", 1 } },
}

-- Adds the fields of `layout` from `at` on, as far as `stop`; says where they end, or nil.
local function add_layout(tree, layout, buffer, at, stop, v6)
    for _, one in ipairs(layout) do
        local name, size = one[1], one[2]
        if size == 0 then
            name = name .. (v6 and "6" or "4")
            size = v6 and 16 or 4
        end
        if at + size > stop then return one.ends and at or nil end
        at = add(tree, name, buffer, at, size)
    end
    return at
end

-- Adds the record at `at`; says where the next one is, or nil when that cannot be known.
local function add_record(tree, buffer, at, stop)
    if at + 2 > stop then
        tree:add_proto_expert_info(malformed)
        return nil
    end
    local kind, length = buffer(at, 1):uint(), buffer(at + 1, 1):uint()
    if length < 2 or at + length > stop then
        tree:add_proto_expert_info(malformed)
        return nil
    end
    local name = types[kind] or ("type " .. kind)
    local record = tree:add(sync, buffer(at, length), "Record: " .. name)
    add(record, "type", buffer, at, 1)
    add(record, "length", buffer, at + 1, 1)
    local finish, layout = at + length, layouts[kind]
    local v6 = kind <= 8 and kind % 2 == 0
    local read = at + 2
    if layout then
        read = add_layout(record, layout, buffer, at + 2, finish, v6)
        if read and layout == session then
            local presence = buffer(at + 11, 1):uint()
            if presence % 2 == 1 then
                read = add_layout(record, shifts, buffer, read, finish, v6)
            end
            if read and math.floor(presence / 2) % 2 == 1 then
                read = add_layout(record, server_ip, buffer, read, finish, v6)
            end
        end
    end
    if not read then
        record:add_proto_expert_info(malformed)
    elseif read < finish then
        record:add(f.unknown, buffer(read, finish - read))
    end
    return finish, name
end

function sync.dissector(buffer, pinfo, tree)
    local length = buffer:len()
    if length < 3 or buffer(0, 2):uint() ~= 0x5348 then return 0 end
    pinfo.cols.protocol = "SHUNT-SYNC"
    local top = tree:add(sync, buffer())
    add(top, "magic", buffer, 0, 2)
    add(top, "version", buffer, 2, 1)
    if buffer(2, 1):uint() ~= VERSION then
        pinfo.cols.info = "version " .. buffer(2, 1):uint()
        top:add_proto_expert_info(other_version)
        return length
    end
    if length < HEADER then
        top:add_proto_expert_info(malformed)
        return length
    end
    local at = 3
    for _, one in ipairs({ { "kind", 1 }, { "node", 1 }, { "from_worker", 1 }, { "to", 1 },
        { "flags", 1 }, { "boot", 8 }, { "sequence", 8 }, { "key_id", 4 }, { "reserved", 4 },
        { "mac", 16 } }) do
        at = add(top, one[1], buffer, at, one[2])
    end
    local kind = buffer(3, 1):uint()
    local info = string.format("%s of %d.%d, sequence %s", kinds[kind] or ("kind " .. kind),
        buffer(4, 1):uint(), buffer(5, 1):uint(), tostring(buffer(16, 8):uint64()))
    if buffer(7, 1):uint() % 2 == 1 then info = info .. " (repeated)" end
    pinfo.cols.info = info
    if kind == 2 then
        if length == HEADER then
            top:add_proto_expert_info(malformed)
            return length
        end
        add(top, "port", buffer, HEADER, 1)
        local frame = buffer(HEADER + 1)
        if frame:len() > 0 then Dissector.get("eth_withoutfcs"):call(frame:tvb(), pinfo, tree) end
        pinfo.cols.info:prepend(info .. ": ")
        return length
    end
    local names, order = {}, {}
    while at and at < length do
        local name
        at, name = add_record(top, buffer, at, length)
        if name then
            if not names[name] then order[#order + 1] = name end
            names[name] = (names[name] or 0) + 1
        end
    end
    for i, name in ipairs(order) do
        order[i] = names[name] > 1 and string.format("%s × %d", name, names[name]) or name
    end
    pinfo.cols.info = info .. ": " .. table.concat(order, ", ")
    return length
end

sync:register_heuristic("udp", function(buffer, pinfo, tree)
    if buffer:len() < HEADER or buffer(0, 2):uint() ~= 0x5348 then return false end
    if buffer(2, 1):uint() ~= VERSION or buffer(3, 1):uint() > 2 then return false end
    sync.dissector(buffer, pinfo, tree)
    return true
end)

local udp, taken = DissectorTable.get("udp.port"), nil
local function take_port()
    if taken then udp:remove(taken, sync) end
    taken = sync.prefs.port > 0 and sync.prefs.port or nil
    if taken then udp:add(taken, sync) end
end
sync.prefs_changed = take_port
take_port()
