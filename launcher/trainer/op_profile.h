// Collects the operations of a run for a table and, if asked, a Chrome trace.
#pragma once

#include <memory>
#include <string>

#include "core/ops/op_observer.h"
#include "launcher/run/chrome_trace.h"

namespace thimble {

class OpProfile final : public OpObserver {
 public:
  /// trace_path empty: no trace file. Throws UserError if the file cannot be made.
  explicit OpProfile(const std::string& trace_path);
  void on_op(const char* name, std::int64_t start_ns, std::int64_t end_ns, double flops) override;
  std::string table() const { return table_.to_text(); }

 private:
  ProfileTable table_;
  std::unique_ptr<TraceWriter> trace_;
};

}  // namespace thimble
