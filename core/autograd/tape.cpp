#include "core/autograd/tape.h"

#include <cmath>
#include <utility>

#include "core/ops/ops.h"

namespace thimble {
namespace {

class KeptTensor final : public SavedTensor {
 public:
  explicit KeptTensor(Tensor tensor) : tensor_(std::move(tensor)) {}
  Tensor get() override { return tensor_; }

 private:
  Tensor tensor_;
};

}  // namespace

std::shared_ptr<SavedTensor> SavePolicy::save(const Tensor& tensor) {
  return std::make_shared<KeptTensor>(tensor);
}

Var Tape::make(Tensor value, bool needs_grad) {
  Var var{.value = std::move(value), .id = -1, .rebuild = nullptr};
  if (needs_grad && recording()) var.id = next_id_++;
  var.saved = std::make_shared<std::shared_ptr<SavedTensor>>();
  return var;
}

std::shared_ptr<SavedTensor> Tape::save(const Var& var) {
  if (var.saved != nullptr && *var.saved != nullptr) return *var.saved;
  std::shared_ptr<SavedTensor> saved =
      var.rebuild != nullptr && rebuilds() ? var.rebuild : save(var.value);
  if (var.saved != nullptr) *var.saved = saved;
  return saved;
}

std::shared_ptr<SavedTensor> Tape::save(const Tensor& tensor) {
  // What is computed again is needed at once.
  return replaying() ? std::make_shared<KeptTensor>(tensor) : policy_.save(tensor);
}

void Tape::record(std::function<void(Tape&)> backward) {
  TH_CHECK(recording());
  nodes_.push_back(std::move(backward));
}

void Tape::begin_use(ParamId id) {
  if (mode_ != Mode::kReplay) ++open_uses_[static_cast<std::int32_t>(id)];
}

void Tape::finish_use(ParamId id) {
  int& open = open_uses_.at(static_cast<std::int32_t>(id));
  TH_CHECK(open > 0, "a parameter finished more often than it was used");
  if (--open == 0) completed_.push_back(id);
}

Var Tape::checkpoint(const Var& x, const std::function<Var(const Var&)>& body) {
  if (recompute_ != Recompute::kFull) return body(x);
  const auto computed_again = [this](std::int64_t units) {
    return std::floor(static_cast<double>(units) * share_);
  };
  const std::int64_t before = units_++;
  if (computed_again(before) == computed_again(units_)) {
    in_kept_unit_ = true;
    Var y = body(x);
    in_kept_unit_ = false;
    return y;
  }
  TH_CHECK(mode_ == Mode::kRecord, "checkpointed units do not nest");
  mode_ = Mode::kCount;
  Var inside = x;
  inside.id = -1;
  Var y = body(inside);
  mode_ = Mode::kRecord;
  y = make(std::move(y.value));
  record([saved = save(x), x_id = x.id, y_id = y.id, body](Tape& tape) {
    Tensor grad = tape.take_grad(y_id);
    tape.mode_ = Mode::kReplay;
    Var again = tape.make(saved->get());
    again.id = x_id;
    const Var out = body(again);
    tape.mode_ = Mode::kRecord;
    tape.add_grad(out.id, grad);
  });
  return y;
}

Tensor Tape::take_grad(std::int32_t id) {
  const auto found = grads_.find(id);
  if (found == grads_.end()) return {};
  Tensor grad = std::move(found->second);
  grads_.erase(found);
  return grad;
}

void Tape::add_grad(std::int32_t id, const Tensor& grad) {
  if (id < 0) return;
  const auto found = grads_.find(id);
  if (found == grads_.end()) {
    grads_.emplace(id, grad);
    return;
  }
  const GradTarget slot = grad_slot(id, grad.dtype(), grad.shape());
  ops::add(slot.tensor, slot.tensor, grad);
}

GradTarget Tape::grad_slot(std::int32_t id, DType dtype, const Shape& shape) {
  TH_CHECK(id >= 0, "a gradient for a variable without one");
  Tensor& grad = grads_[id];
  if (!grad.defined()) {
    grad = Tensor::empty(arena_, MemoryTag::kActivations, dtype, shape, "gradient");
    return {grad, false};
  }
  TH_CHECK(grad.dtype() == dtype && grad.shape() == shape);
  if (!grad.is_sole_owner()) {  // somebody else still reads it
    const Tensor own = Tensor::empty(arena_, MemoryTag::kActivations, dtype, shape, "gradient");
    ops::copy(own, grad);
    grad = own;
  }
  return {grad, true};
}

void Tape::backward_to(std::size_t mark) {
  while (nodes_.size() > mark) {
    std::function<void(Tape&)> node = std::move(nodes_.back());
    nodes_.pop_back();
    node(*this);
    // Only now: the node may have used the weight after its gradient, and the sink may change it.
    for (const ParamId id : std::exchange(completed_, {})) sink_.complete(id);
  }
}

void Tape::backward() {
  backward_to(0);
  grads_.clear();
  for (const auto& [id, open] : open_uses_) TH_CHECK(open == 0, "parameter {} is still open", id);
  open_uses_.clear();
}

}  // namespace thimble
