-- Wireshark: the messages of netfs over a byte stream, as docs/wire-format.md describes them. `netfs trace wireshark` puts this file
-- where Wireshark finds it; `tshark -X lua_script:netfs.lua -r file.pcapng` needs no installation.
-- A connection is recognised by the magic of its hello, whatever its port. A reply names the frame of its request and its delay.

local netfs = Proto("netfs", "netfs, a network filesystem")

local ops = {
  [0] = "PING", [1] = "MOUNT", [2] = "LOOKUP", [3] = "GETATTR", [4] = "SETATTR", [5] = "CREATE", [6] = "OPEN", [7] = "READ",
  [8] = "WRITE", [9] = "COMMIT", [10] = "TRUNCATE", [11] = "MKDIR", [12] = "READDIR", [13] = "UNLINK", [14] = "RMDIR",
  [15] = "RENAME", [16] = "AUX_READ", [17] = "AUX_WRITE", [18] = "RECORD_GET", [19] = "TRANSACT", [20] = "LINK",
  [21] = "SYMLINK", [22] = "READLINK", [23] = "ALLOCATE", [24] = "PUNCH", [25] = "SEEK", [26] = "COPY_RANGE",
  [27] = "XATTR_GET", [28] = "XATTR_SET", [29] = "XATTR_LIST", [30] = "XATTR_REMOVE", [31] = "STATFS", [32] = "LOCK_TEST",
  [33] = "LOCK", [34] = "UNLOCK", [35] = "LEASE", [36] = "LEASE_RETURN", [37] = "COMPOUND", [38] = "BLOB_GET", [39] = "BIND",
  [40] = "FENCE", [41] = "END_SESSION", [42] = "SEQUENCED", [48] = "AWAIT",
}
local kinds = { [1] = "request", [2] = "reply" }
local magic = "NETFSIO1"

local f = {
  body_length = ProtoField.uint32("netfs.body_length", "Body length"),
  xid = ProtoField.uint32("netfs.xid", "Call number"),
  payload_length = ProtoField.uint64("netfs.payload_length", "Payload length"),
  op = ProtoField.uint16("netfs.op", "Operation", base.DEC, ops),
  status = ProtoField.uint16("netfs.status", "Status (errno)"),
  kind = ProtoField.uint8("netfs.kind", "Kind", base.DEC, kinds),
  body = ProtoField.string("netfs.body", "Body"),
  payload = ProtoField.bytes("netfs.payload", "Payload"),
  request_in = ProtoField.framenum("netfs.request_in", "Request in frame", base.NONE, frametype.REQUEST),
  delay = ProtoField.double("netfs.delay", "Seconds since the request"),
  version = ProtoField.uint16("netfs.hello.max_version", "Highest version"),
  features = ProtoField.uint32("netfs.hello.features", "Features", base.HEX),
  credits = ProtoField.uint32("netfs.hello.credits", "Credits"),
  max_payload = ProtoField.uint64("netfs.hello.max_payload", "Most payload of a message"),
}
netfs.fields = f
local stream = Field.new("tcp.stream")
local calls = {}

-- A msgpack value as text; returns the text and where the next one begins.
local function value(bytes, at)
  local tag = bytes:get_index(at)
  local function text(length, from)
    if length == 0 then return '""', from end
    local part = bytes:subset(from, length)
    for i = 0, length - 1 do
      local byte = part:get_index(i)
      if byte < 32 or byte > 126 then return "<" .. part:tohex(true) .. ">", from + length end
    end
    return '"' .. part:raw() .. '"', from + length
  end
  local function array(count, from)
    local parts, position = {}, from
    for i = 1, count do parts[i], position = value(bytes, position) end
    return "[" .. table.concat(parts, ", ") .. "]", position
  end
  local function uint(length)
    local total = UInt64(0)
    for i = 1, length do total = total * 256 + bytes:get_index(at + i) end
    return tostring(total), at + 1 + length
  end
  local function small(length)
    local total = 0
    for i = 1, length do total = total * 256 + bytes:get_index(at + i) end
    return total
  end
  if tag < 0x80 then return tostring(tag), at + 1
  elseif tag >= 0xe0 then return tostring(tag - 256), at + 1
  elseif tag >= 0x90 and tag <= 0x9f then return array(tag - 0x90, at + 1)
  elseif tag >= 0xa0 and tag <= 0xbf then return text(tag - 0xa0, at + 1)
  elseif tag == 0xc0 then return "nil", at + 1
  elseif tag == 0xc2 then return "false", at + 1
  elseif tag == 0xc3 then return "true", at + 1
  elseif tag == 0xc4 or tag == 0xd9 then return text(small(1), at + 2)
  elseif tag == 0xc5 or tag == 0xda then return text(small(2), at + 3)
  elseif tag == 0xc6 or tag == 0xdb then return text(small(4), at + 5)
  elseif tag == 0xcc then return uint(1)
  elseif tag == 0xcd then return uint(2)
  elseif tag == 0xce then return uint(4)
  elseif tag == 0xcf then return uint(8)
  elseif tag >= 0xd0 and tag <= 0xd3 then
    local length = 2 ^ (tag - 0xd0)
    return "-(" .. bytes:subset(at + 1, length):tohex(true) .. ")", at + 1 + length
  elseif tag == 0xdc then return array(small(2), at + 3)
  elseif tag == 0xdd then return array(small(4), at + 5)
  end
  error("no value begins with " .. tag)
end

local function is_hello(tvb) return tvb:len() >= 8 and tvb:raw(0, 8) == magic end

local function hello(tvb, pinfo, tree)
  local below = tree:add(netfs, tvb(), "netfs hello")
  below:add_le(f.version, tvb(12, 2))
  below:add_le(f.features, tvb(16, 4))
  below:add_le(f.credits, tvb(20, 4))
  below:add_le(f.max_payload, tvb(24, 8))
  return "hello, version " .. tvb(12, 2):le_uint()
end

local function frame(tvb, pinfo, tree)
  local body_length, xid, op = tvb(0, 4):le_uint(), tvb(4, 4):le_uint(), tvb(16, 2):le_uint()
  local status, kind = tvb(18, 2):le_uint(), tvb(20, 1):uint()
  local payload_length = tvb(8, 8):le_uint64():tonumber()
  local name = ops[op] or ("operation " .. op)
  local below = tree:add(netfs, tvb(), "netfs " .. name .. " " .. (kinds[kind] or "?") .. " " .. xid)
  below:add_le(f.body_length, tvb(0, 4))
  below:add_le(f.xid, tvb(4, 4))
  below:add_le(f.payload_length, tvb(8, 8))
  below:add_le(f.op, tvb(16, 2))
  below:add_le(f.status, tvb(18, 2))
  below:add(f.kind, tvb(20, 1))
  local said = name .. " " .. xid
  if body_length > 0 then
    local good, text = pcall(value, tvb:bytes(24, body_length), 0)
    below:add(f.body, tvb(24, body_length), good and text or "not msgpack")
    local inner = op == 42 and good and text:match("%[(%d+), ") and text:match("^%[%d+, %d+, %[(%d+),") or nil
    if op == 42 and kind == 2 and good then inner = text:match("^%[(%d+),") end
    if inner and ops[tonumber(inner)] then said = said .. " " .. ops[tonumber(inner)] end
  end
  if payload_length > 0 then
    below:add(f.payload, tvb(24 + body_length, payload_length))
    said = said .. " with " .. payload_length .. " bytes"
  end
  local key = tostring(stream() and stream().value or 0) .. "/" .. xid
  if kind == 1 then
    if not pinfo.visited then
      calls[key] = calls[key] or {}
      table.insert(calls[key], { number = pinfo.number, time = pinfo.rel_ts })
    end
    return said
  end
  -- A number is used again when its reply has come: the request is the last one before this frame.
  local found
  for _, each in ipairs(calls[key] or {}) do
    if each.number <= pinfo.number then found = each end
  end
  if found then
    below:add(f.request_in, found.number):set_generated()
    below:add(f.delay, pinfo.rel_ts - found.time):set_generated()
  end
  return said .. (status == 0 and " ok" or " errno " .. status)
end

local function length_of(tvb, pinfo, at)
  if tvb:len() >= at + 10 and tvb:raw(at, 8) == magic then return tvb(at + 8, 2):le_uint() end
  return 24 + tvb(at, 4):le_uint() + tvb(at + 8, 8):le_uint64():tonumber()
end

local function message(tvb, pinfo, tree)
  local said = is_hello(tvb) and hello(tvb, pinfo, tree) or frame(tvb, pinfo, tree)
  pinfo.cols.protocol = "netfs"
  local before = tostring(pinfo.cols.info)
  pinfo.cols.info = before:match("^netfs: ") and (before .. "; " .. said) or ("netfs: " .. said)
  return tvb:len()
end

function netfs.dissector(tvb, pinfo, tree)
  dissect_tcp_pdus(tvb, tree, 16, length_of, message)
  return tvb:len()
end

netfs:register_heuristic("tcp", function(tvb, pinfo, tree)
  if not is_hello(tvb) then return false end
  pinfo.conversation = netfs
  netfs.dissector(tvb, pinfo, tree)
  return true
end)
