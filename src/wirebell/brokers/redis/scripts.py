"""What runs inside Redis. Each script is whole: either all of it happened, or nothing.

``#!lua`` without flags has Redis refuse a script *before* it runs where it may not write: out of
memory, a disk that is full, a replica. Reading history is allowed to one whose memory is full.

Keys, behind a prefix (``wirebell``, in a cluster ``{wirebell.17}``):

- ``.meta.<channel>``: epoch (8 characters), generation (8), when the stream's key ends and when its
  publications do (16 digits each, milliseconds since 1970), how many of them count (10 digits),
  offset, and where versions are used a space, the version (20 digits), a space, its epoch.
- ``.stream.<channel>``: the stream; an entry's id is its offset, its field ``d`` the record.
  Redis forgets entries by whole blocks (to trim them one by one takes longer than all else), and
  the key some time after its publications have ended, so that not each needs a new expiry: what
  counts is said by the position, and decided when it is read.
- ``.once.<length of the channel>.<channel>.<key>``: what became of an idempotency key.
- ``.sender.<id>``: number of the last batch of one lane of a process, a space, and its results.
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


_POSITION = """\
local call, sub = redis.call, string.sub
local function read_meta(meta, generation)
  -- Epoch, offset, versions; when the key ends, when its publications do, how many count.
  if not meta or #meta < 59 then return nil end
  local epoch, made, key_ends, ends, size = struct.unpack('c8c8c16c16c10', meta)
  if made ~= generation then return nil end
  local text, versions = sub(meta, 59), ''
  local offset = tonumber(text)
  if not offset then
    local at = string.find(text, ' ', 1, true)
    if not at then return nil end
    offset, versions = tonumber(sub(text, 1, at - 1)), sub(text, at)
  end
  return epoch, offset, versions, key_ends, ends, size
end
local function new_epoch(seed, number)
  -- An odd factor: numbers of one batch give different epochs.
  return string.format('%08x', (seed + number * 2654435769) % 4294967296)
end
local function read_time()
  local time = call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local function print_time(time) return string.format('%016.0f', time) end
"""

# KEYS: generation, sender, the other senders of this process, idempotency keys, then the meta of
# each group that keeps something, and then the stream of each.
# ARGV: number of this batch, command, marker, seed, how many keys are no streams, structure
# (MessagePack), numbers of the batches of each sender that were acknowledged last (MessagePack),
# records in the order of their entries.
# The structure: how many groups keep something (the first ones), plans, groups.
# A plan: size, ttl and meta ttl in milliseconds. Of a group, flat: channel, number of its plan (0
# keeps nothing), entries: how many, or one by one where something holds for one alone: 0, or
# [1 to keep it nowhere, number of its idempotency key, version, its epoch].
# Answer: 1 (this server lost what it had acknowledged), 2 (a later batch was here before), or flat
# for each group its epoch and its results: an offset, or [offset, epoch, 1 if it was left out].
PUBLISH = Script(
    """\
#!lua
"""
    + _POSITION
    + f"""\
local string_count = tonumber(ARGV[5])
-- All that is read, in one call: each of them costs more than what it does.
local strings = call('MGET', unpack(KEYS, 1, string_count))
local function read_number(known) return known and tonumber(string.match(known, '^%d+')) or 0 end
local last = read_number(strings[2])
if last == tonumber(ARGV[1]) then return sub(strings[2], #ARGV[1] + 2) end
if last > tonumber(ARGV[1]) then return 2 end
for s, acknowledged in ipairs(cmsgpack.unpack(ARGV[7])) do
  if read_number(strings[s + 1]) < acknowledged then return 1 end
end
local command, seed, generation = ARGV[2], tonumber(ARGV[4]), strings[1] or '00000000'
local kept_count, plans, groups = unpack(cmsgpack.unpack(ARGV[6]))
local pack, concat = struct.pack, table.concat
local results, count, at, key = {{}}, 0, 8, string_count - kept_count

local now = read_time()
local now_text = print_time(now)
for p = 1, #plans do
  local size, ttl, meta_ttl = unpack(plans[p])
  local spare = math.ceil(ttl / 8)
  plans[p] = {{
    -- As text: Redis prints each number that a call is given, which is slow.
    size = tostring(size),
    ends = print_time(now + ttl),
    ends_and_size = print_time(now + ttl) .. string.format('%010.0f', size),
    key_ends = print_time(now + ttl + spare),
    key_ends_at = string.format('%.0f', now + ttl + spare),
    meta_milliseconds = string.format('%.0f', meta_ttl + spare),
  }}
end

for g = 1, #groups, 3 do
  local name, plan, entries = groups[g], plans[groups[g + 1]], groups[g + 2]
  local terms = type(entries) ~= 'number' and entries
  local epoch, offset, versions, key_ends, ends = '', 0, '', '', ''
  local stream_key, is_changed, text
  if plan then
    key = key + 1
    stream_key = KEYS[key + kept_count]
    epoch, offset, versions, key_ends, ends = read_meta(strings[key], generation)
    if not offset then
      epoch, offset, versions, key_ends, ends = new_epoch(seed, g), 0, '', '', ''
    end
    if ends < now_text then call('DEL', stream_key) end
  end
  count = count + 1
  results[count] = epoch
  local place, message, more = count, nil, nil
  for e = 1, terms and #terms or entries do
    local entry = terms and terms[e] or 0
    local record, is_kept, once, answer = ARGV[at], plan, 0, nil
    at = at + 1
    if entry ~= 0 then
      is_kept = is_kept and entry[1] == 0
      once = entry[2]
      local before = once > 0 and strings[once]
      if before then
        local where = sub(before, 1, 8)
        answer = {{tonumber(sub(before, 9)), where == '        ' and '' or where, 1}}
      elseif is_kept and entry[3] ~= '' then
        -- Of one version epoch only a higher version goes in; another one starts again.
        if sub(versions, 23) == entry[4] and entry[3] <= sub(versions, 2, 21) then
          answer = {{offset, epoch, 1}}
        else
          versions = ' ' .. entry[3] .. ' ' .. entry[4]
        end
      end
    end
    if not answer then
      local where, number = '        ', 0
      if is_kept then
        offset = offset + 1
        text = tostring(offset)
        local added = redis.pcall('XADD', stream_key, 'NOMKSTREAM', 'MAXLEN', '~', plan.size,
          text .. '-0', 'd', record)
        if type(added) ~= 'string' then
          if added then
            -- Somebody put something else there, or the position was lost without the stream.
            call('DEL', stream_key)
            epoch, offset, text = new_epoch(seed, g + #groups), 1, '1'
            results[place] = epoch
          end
          call('XADD', stream_key, text .. '-0', 'd', record)
          key_ends = ''
        end
        is_changed, where, number = true, epoch, offset
      end
      answer = number
      if message then
        more = more or {{}}
        more[#more + 1] = pack('>I8c8I4', number, where, #record)
        more[#more + 1] = record
      else
        message = pack('>BI8c8I4', 1, number, where, #record) .. record
      end
      if once > 0 then
        strings[once] = where .. tostring(number)
        call('SET', KEYS[once], strings[once], 'EX', '300')
      end
    end
    count = count + 1
    results[count] = answer
  end
  if is_changed then
    local ahead, behind = epoch .. generation, plan.ends_and_size .. text .. versions
    if key_ends < plan.ends then
      local milliseconds = plan.meta_milliseconds
      call('SET', KEYS[key], ahead .. plan.key_ends .. behind, 'PX', milliseconds)
      call('PEXPIREAT', stream_key, plan.key_ends_at)
    else
      call('SET', KEYS[key], ahead .. key_ends .. behind, 'KEEPTTL')
    end
  end
  if message then call(command, name, more and message .. concat(more) or message) end
end

local packed = cmsgpack.pack(results)
local outcome = ARGV[1] .. ' ' .. packed
-- Behind everything else: who gets it through the other link has got the rest.
if ARGV[3] ~= '' then call(command, ARGV[3], outcome) end
call('SET', KEYS[2], outcome, 'EX', '{SENDER_SECONDS}')
return packed
"""
)

# KEYS: generation, senders. ARGV: a number of 8 hexadecimal digits, what was acknowledged of each.
RENEW = Script(
    f"""\
#!lua
local is_lost = false
for s = 2, #KEYS do
  local known = redis.call('GET', KEYS[s])
  if (known and tonumber(string.match(known, '^%d+')) or 0) < tonumber(ARGV[s]) then
    is_lost = true
    redis.call('SET', KEYS[s], ARGV[s] .. ' ', 'EX', {SENDER_SECONDS})
  end
end
-- Another lane of the same process was here before.
if not is_lost then return redis.call('GET', KEYS[1]) or '00000000' end
-- The id of this server's life: several nodes that find out the same agree on it.
local info = redis.pcall('INFO', 'replication')
local name = type(info) == 'string' and string.match(info, 'master_replid:(%x%x%x%x%x%x%x%x)')
local generation = name or ARGV[1]
redis.call('SET', KEYS[1], generation)
return generation
"""
)

# KEYS: generation, then meta and stream of each question. ARGV: seed, questions (MessagePack).
# A question: offset after (or before) which, 0 for none; limit, -1 to remove what is kept; 1 for
# newest first; how long a channel without publications is remembered, in milliseconds.
# Answer: for each epoch, offset, and ids and records by turns.
HISTORY = Script(
    """\
#!lua flags=allow-oom
"""
    + _POSITION
    + """\
local generation = call('GET', KEYS[1]) or '00000000'
local questions, answers, now = cmsgpack.unpack(ARGV[2]), {}, print_time(read_time())
for q = 1, #questions do
  local since, limit, is_reverse, meta_ttl = unpack(questions[q])
  local meta_key, stream_key = KEYS[2 * q], KEYS[2 * q + 1]
  local meta = redis.pcall('GET', meta_key)
  if type(meta) ~= 'string' then meta = nil end
  local epoch, offset, _, _, ends, size = read_meta(meta, generation)
  -- The position is in the other key, and stays.
  if limit < 0 then call('DEL', stream_key) end
  if not offset then
    epoch, offset = new_epoch(tonumber(ARGV[1]), q), 0
    call('DEL', stream_key)
    call('SET', meta_key, epoch .. generation .. string.rep('0', 43), 'PX', meta_ttl)
  elseif offset == 0 then
    -- Asked for, and never published to: it lives as long as somebody asks.
    call('PEXPIRE', meta_key, meta_ttl)
  end
  local answer, found = {epoch, offset}, {}
  if limit > 0 and offset > 0 and now <= ends then
    local oldest = math.max(1, offset - tonumber(size) + 1)
    if is_reverse == 1 then
      local newest = since > 0 and (since - 1) .. '-0' or '+'
      found = call('XREVRANGE', stream_key, newest, oldest .. '-0', 'COUNT', limit)
    else
      oldest = math.max(oldest, since + 1)
      found = call('XRANGE', stream_key, oldest .. '-0', '+', 'COUNT', limit)
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
