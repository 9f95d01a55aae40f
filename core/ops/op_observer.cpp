#include "core/ops/op_observer.h"

namespace thimble {
namespace {

thread_local OpObserver* observer = nullptr;

}  // namespace

bool is_observed() {
  return observer != nullptr;
}

ObserverScope::ObserverScope(OpObserver& next) : previous_(observer) {
  observer = &next;
}
ObserverScope::~ObserverScope() {
  observer = previous_;
}

OpTimer::OpTimer(const char* name, double flops) : name_(name), flops_(flops) {
  if (observer != nullptr) start_ns_ = steady_now_ns();
}

OpTimer::~OpTimer() {
  if (observer == nullptr || start_ns_ == 0) return;
  try {
    observer->on_op(name_, start_ns_, steady_now_ns(), flops_);
  } catch (...) {  // NOLINT(bugprone-empty-catch) a line of a profile is not worth a run
  }
}

}  // namespace thimble
