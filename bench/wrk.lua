-- A question with a body, where one is given.
init = function(args)
  if args[1] then
    wrk.method, wrk.body = "POST", args[1]
    wrk.headers["Content-Type"] = "application/json"
  end
end

-- What wrk measured, as one line of JSON: times in microseconds, and requests that were not answered with 2xx.
done = function(summary, latency, requests)
  local errors = summary.errors
  print(string.format(
    '{"requests": %d, "duration": %d, "p50": %d, "p99": %d, "refused": %d, "broken": %d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout
  ))
end
