local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'd', ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[2])
if ARGV[3] ~= '0' then redis.call('SETEX', KEYS[2], ARGV[3], ARGV[4]) end
redis.call('PUBLISH', ARGV[5], id .. ' ' .. ARGV[4])
return redis.call('PUBLISH', KEYS[2], ARGV[4])
