#include "launcher/trainer/op_profile.h"

namespace thimble {

OpProfile::OpProfile(const std::string& trace_path) {
  if (!trace_path.empty()) trace_ = std::make_unique<TraceWriter>(trace_path);
}

void OpProfile::on_op(const char* name, std::int64_t start_ns, std::int64_t end_ns, double flops) {
  table_.add(name, start_ns, end_ns, flops);
  if (trace_) trace_->add(name, "op", start_ns, end_ns, 0);
}

}  // namespace thimble
