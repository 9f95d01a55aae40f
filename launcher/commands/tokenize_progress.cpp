#include "launcher/commands/tokenize_progress.h"

#include "core/base/numeric.h"
#include "core/ops/op_observer.h"
#include "launcher/commands/command.h"
#include "launcher/run/console.h"
#include "launcher/run/progress.h"

namespace thimble {

ProgressFn tokenize_progress(const CommandSession& session) {
  if (session.quiet) return {};
  const double interval_s = session.console->traits().live ? 0.1 : 10.0;
  const std::int64_t start_ns = steady_now_ns();
  const auto seconds = [start_ns] {
    return static_cast<double>(steady_now_ns() - start_ns) * 1e-9;
  };
  return [&session, interval_s, seconds, shown_s = 0.0](const TokenizeProgress& p) mutable {
    const double now_s = seconds();
    if (p.bytes_done == 0 || now_s < shown_s + interval_s) return;
    shown_s = now_s;
    const double left_s = now_s * static_cast<double>(p.bytes_total - p.bytes_done) /
                          static_cast<double>(p.bytes_done);
    session.console->set_live_line(fmt::format(
        "tokenised {} of {}, {} tokens, {:.1f} MB/s, left {}", format_bytes(p.bytes_done),
        format_bytes(p.bytes_total), short_count(static_cast<double>(p.tokens)),
        static_cast<double>(p.bytes_done) / now_s / 1e6, format_duration(left_s)));
  };
}

}  // namespace thimble
