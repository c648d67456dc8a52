"""What runs inside Redis. Each script is whole: either all of it happened, or nothing.

``#!lua`` without flags has Redis refuse a script *before* it runs where it may not write: out of
memory, a disk that is full, a replica.

Keys, behind a prefix (``wirebell``, in a cluster ``{wirebell.17}``):

- ``.meta.<channel>``: epoch (8 characters), generation (8), offset, and where versions are used a
  space, the version (20 digits), a space, the version's epoch.
- ``.stream.<channel>``: the stream; an entry's id is its offset, its field ``d`` the record.
- ``.once.<length of the channel>.<channel>.<key>``: what became of an idempotency key.
- ``.sender.<id>``: number of the last batch of a process, a space, and its results.
- ``.generation``: changes when the server came back with less than it had acknowledged.
- ``.members.<channel>`` and ``.leases.<channel>``: presence, by client id.

What is published is frames: a byte, the version of the framing, and for each record its offset
(8 bytes), epoch (8 bytes, spaces for none) and length (4 bytes) ahead of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

__all__ = ("HISTORY", "PRESENCE", "PUBLISH", "RENEW", "SENDER_SECONDS", "Script")

SENDER_SECONDS = 86_400
"""How long the last batch of a process is remembered."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script, and the name under which Redis keeps it.

    Attributes:
        body: In Lua.
        sha: Of that.
    """

    body: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "sha", hashlib.sha1(self.body.encode(), usedforsecurity=False).hexdigest()
        )


_OPEN_STREAM = """\
local function read_meta(meta_key, generation)
  local meta = redis.pcall('GET', meta_key)
  if type(meta) ~= 'string' or string.sub(meta, 9, 16) ~= generation then return nil end
  local epoch, at = string.sub(meta, 1, 8), string.find(meta, ' ', 17, true)
  if not at then return epoch, tonumber(string.sub(meta, 17)), '' end
  return epoch, tonumber(string.sub(meta, 17, at - 1)), string.sub(meta, at)
end
local function new_epoch(seed, number)
  -- An odd factor: numbers of one batch give different epochs.
  return string.format('%08x', (seed + number * 2654435769) % 4294967296)
end
"""

# ARGV: number of this batch and of the last one that was acknowledged, command, marker, seed,
# groups (MessagePack), records in the order of their entries.
# A group: channel, number of its first key, size (0 keeps nothing), ttl and meta ttl in
# milliseconds, entries: how many, or one by one where something holds for one alone: 0, or
# [1 to keep it nowhere, number of its idempotency key, version, its epoch].
# Answer: 1 (this server lost what it had acknowledged), 2 (a later batch was here before), or for
# each group its epoch and its results: an offset, or [offset, epoch, 1 if it was left out].
PUBLISH = Script(
    """\
#!lua
"""
    + _OPEN_STREAM
    + f"""\
local number, acknowledged = tonumber(ARGV[1]), tonumber(ARGV[2])
local known = redis.call('GET', KEYS[1])
local last = known and tonumber(string.match(known, '^%d+')) or 0
if last == number then return string.sub(known, #ARGV[1] + 2) end
if last > number then return 2 end
if last < acknowledged then return 1 end
local command, seed = ARGV[3], tonumber(ARGV[5])
local generation = redis.call('GET', KEYS[2]) or '00000000'
local groups, results, at = cmsgpack.unpack(ARGV[6]), {{}}, 7
local pack, insert = struct.pack, table.insert
local nowhere = pack('>I8', 0) .. '        '

for g = 1, #groups do
  local name, key, size, ttl, meta_ttl, entries = unpack(groups[g])
  local count = type(entries) == 'number' and entries or #entries
  local epoch, offset, versions = '', 0, ''
  local meta_key, stream_key, is_changed
  if size > 0 then
    meta_key, stream_key = KEYS[key], KEYS[key + 1]
    epoch, offset, versions = read_meta(meta_key, generation)
    if not epoch then
      epoch, offset, versions = new_epoch(seed, g), 0, ''
      redis.call('DEL', stream_key)
    end
  end
  local result, frames = {{epoch}}, {{'\\1'}}
  for e = 1, count do
    local entry = count ~= entries and entries[e] or 0
    local record, is_kept, once, answer = ARGV[at], size > 0, 0, nil
    at = at + 1
    if entry ~= 0 then
      is_kept = is_kept and entry[1] == 0
      once = entry[2]
      local before = once > 0 and redis.call('GET', KEYS[once])
      if before then
        local place = string.sub(before, 1, 8)
        answer = {{tonumber(string.sub(before, 9)), place == '        ' and '' or place, 1}}
      elseif is_kept and entry[3] ~= '' then
        -- Of one version epoch only a higher version goes in; another one starts again.
        if string.sub(versions, 23) == entry[4] and entry[3] <= string.sub(versions, 2, 21) then
          answer = {{offset, epoch, 1}}
        else
          versions = ' ' .. entry[3] .. ' ' .. entry[4]
        end
      end
    end
    if answer then
      insert(result, answer)
    elseif is_kept then
      offset = offset + 1
      local added = redis.pcall(
        'XADD', stream_key, 'MAXLEN', size, offset .. '-0', 'd', record)
      if type(added) == 'table' and added.err then
        -- Somebody put something else there, or the position was lost without the stream.
        redis.call('DEL', stream_key)
        epoch, offset = new_epoch(seed, g + #groups), 1
        result[1] = epoch
        redis.call('XADD', stream_key, 'MAXLEN', size, '1-0', 'd', record)
      end
      is_changed = true
      insert(result, offset)
      insert(frames, pack('>I8', offset) .. epoch .. pack('>I4', #record))
      insert(frames, record)
      if once > 0 then redis.call('SET', KEYS[once], epoch .. offset, 'EX', 300) end
    else
      insert(result, 0)
      insert(frames, nowhere .. pack('>I4', #record))
      insert(frames, record)
      if once > 0 then redis.call('SET', KEYS[once], '        0', 'EX', 300) end
    end
  end
  if is_changed then
    redis.call('SET', meta_key, epoch .. generation .. offset .. versions, 'PX', meta_ttl)
    redis.call('PEXPIRE', stream_key, ttl)
  end
  if #frames > 1 then redis.call(command, name, table.concat(frames)) end
  results[g] = result
end

-- Behind everything else: who gets it through the other link has got the rest.
if ARGV[4] ~= '' then redis.call(command, ARGV[4], ARGV[1]) end
local packed = cmsgpack.pack(results)
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. packed, 'EX', {SENDER_SECONDS})
return packed
"""
)

# KEYS: sender, generation. ARGV: what was acknowledged last, a number of 8 hexadecimal digits.
RENEW = Script(
    f"""\
#!lua
-- The id of this server's life: several nodes that find out the same agree on it.
local info = redis.pcall('INFO', 'replication')
local name = type(info) == 'string' and string.match(info, 'master_replid:(%x%x%x%x%x%x%x%x)')
local generation = name or ARGV[2]
redis.call('SET', KEYS[2], generation)
redis.call('SET', KEYS[1], ARGV[1] .. ' ', 'EX', {SENDER_SECONDS})
return generation
"""
)

# KEYS: generation, then meta and stream of each question. ARGV: seed, questions (MessagePack).
# A question: offset after (or before) which, 0 for none; limit, -1 to remove what is kept; 1 for
# newest first; how long a channel without publications is remembered, in milliseconds.
# Answer: for each epoch, offset, and ids and records by turns.
HISTORY = Script(
    """\
#!lua
"""
    + _OPEN_STREAM
    + """\
local generation = redis.call('GET', KEYS[1]) or '00000000'
local questions, answers = cmsgpack.unpack(ARGV[2]), {}
for q = 1, #questions do
  local since, limit, is_reverse, meta_ttl = unpack(questions[q])
  local meta_key, stream_key = KEYS[2 * q], KEYS[2 * q + 1]
  local epoch, offset = read_meta(meta_key, generation)
  -- The position is in the other key, and stays.
  if limit < 0 then redis.call('DEL', stream_key) end
  if not epoch then
    epoch, offset = new_epoch(tonumber(ARGV[1]), q), 0
    redis.call('DEL', stream_key)
    redis.call('SET', meta_key, epoch .. generation .. '0', 'PX', meta_ttl)
  elseif offset == 0 then
    -- Asked for, and never published to: it lives as long as somebody asks.
    redis.call('PEXPIRE', meta_key, meta_ttl)
  end
  local answer, found = {epoch, offset}, {}
  if limit > 0 and offset > 0 then
    if is_reverse == 1 then
      local newest = since > 0 and (since - 1) .. '-0' or '+'
      found = redis.call('XREVRANGE', stream_key, newest, '-', 'COUNT', limit)
    else
      found = redis.call('XRANGE', stream_key, (since + 1) .. '-0', '+', 'COUNT', limit)
    end
  end
  for f = 1, #found do
    answer[#answer + 1] = found[f][1]
    answer[#answer + 1] = found[f][2][2]
  end
  answers[q] = answer
end
return answers
"""
)

# ARGV: calls (MessagePack), then the records of those that add. KEYS: leases and members of each.
# A call: 1 adds, 2 removes, 3 reads; client id; lease in milliseconds.
# Answer: for each a list, of records where it reads.
PRESENCE = Script(
    """\
#!lua
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local calls, answers, at = cmsgpack.unpack(ARGV[1]), {}, 2

local function sweep(leases, members)
  repeat
    local gone = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 1000)
    if #gone > 0 then
      redis.call('ZREM', leases, unpack(gone))
      redis.call('HDEL', members, unpack(gone))
    end
  until #gone < 1000
end

for c = 1, #calls do
  local kind, client, lease = unpack(calls[c])
  local leases, members = KEYS[2 * c - 1], KEYS[2 * c]
  answers[c] = {}
  if kind == 1 then
    sweep(leases, members)
    redis.call('ZADD', leases, now + lease, client)
    redis.call('HSET', members, client, ARGV[at])
    at = at + 1
    -- Longer than the longest lease, so that a channel that everybody left without a word goes.
    if redis.call('PTTL', leases) < lease + 1000 then
      redis.call('PEXPIRE', leases, lease + 1000)
    end
    if redis.call('PTTL', members) < lease + 1000 then
      redis.call('PEXPIRE', members, lease + 1000)
    end
  elseif kind == 2 then
    redis.call('ZREM', leases, client)
    redis.call('HDEL', members, client)
  else
    sweep(leases, members)
    answers[c] = redis.call('HVALS', members)
  end
end
return answers
"""
)
