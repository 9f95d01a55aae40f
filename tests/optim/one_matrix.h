// One parameter under an optimizer, in one slice or several, with weights and gradients that both
// the tests and the script of the fixtures can compute.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <vector>

#include "core/nn/resident_state.h"
#include "core/ops/ops.h"
#include "optim/update_loop.h"

namespace thimble {

/// As in tests/fixtures/make_optimizer_fixtures.py; step 0 is the weights.
inline float fixture_value(std::int64_t element, std::int64_t step) {
  return static_cast<float>(
      static_cast<double>((element * 7919 + step * 104729 + element * element * 31) % 2003) / 1001 -
      1);
}

/// Element of the storage -> element of the logical matrix.
inline std::int64_t logical_element(const ParamInfo& info, std::int64_t stored) {
  if (!info.transposed()) return stored;
  const std::int64_t out = info.shape[0];
  return stored % out * info.shape[1] + stored / out;
}

class OneMatrix : public UpdateLoop::Client {
 public:
  OneMatrix(const Optimizer& optimizer, const ParamInfo& info, DType dtype = DType::kF32,
            MasterFormat master = MasterFormat::kNone)
      : optimizer_(optimizer), master_(master) {
    id_ = params_.add(info);
    item_ = {id_, whole_slice(info)};
    table_.emplace(params_, optimizer, StateFormats{.weights = dtype, .master = master},
                   [&](ParamId) { return RowPartition::whole(info); });
    state_.emplace(*arena_, *table_, 0);
    create_state(*state_, *table_, 1);
    state_->create(table_->find(id_, StateKind::kWeight)->id);
    weight_ = at(*table_->find(id_, StateKind::kWeight));
    grad_ = Tensor::empty(*arena_, MemoryTag::kGradients, DType::kF32, info.storage_shape());
    const Tensor first = filled(0);
    if (master == MasterFormat::kF32) ops::copy(state("master"), first);
    if (master == MasterFormat::kSplit) {
      split_weight(weight_, state("remainder"), first);
    } else {
      ops::cast(weight_, first);
    }
  }

  Tensor gradient(ParamId) override { return taken_; }
  void updated(ParamId) override {}

  /// Gradient by logical element; the formula if none is given.
  void step(std::int64_t number, double lr, const std::function<float(std::int64_t)>& grad = {}) {
    for (std::int64_t i = 0; i < grad_.numel(); ++i) {
      const std::int64_t e = logical_element(info(), i);
      grad_.data<float>()[i] = grad ? grad(e) : fixture_value(e, number);
    }
    change_state(*state_, *table_, std::exchange(state_step_, number), number);
    UpdateLoop loop({*arena_, params_, optimizer_, *table_, *state_, sums_, 42});
    taken_ = takes_projected_ && optimizer_.projected_width(info(), number) > 0
                 ? loop.project_gradient(id_, number, grad_)
                 : grad_;
    loop.step(*this, std::span(&item_, 1), {number, lr});
  }

  /// Updates take the projected gradients, where there are any.
  void take_projected() { takes_projected_ = true; }

  /// In logical order.
  std::vector<double> weights() const {
    const bool f32 = weight_.dtype() == DType::kF32;
    return logical([&](std::int64_t i) {
      if (master_ == MasterFormat::kF32) return state("master").data<float>()[i];
      if (master_ == MasterFormat::kSplit) {
        return join_float(weight_.data<BF16>()[i], state("remainder").data<std::uint16_t>()[i]);
      }
      return f32 ? weight_.data<float>()[i] : to_float(weight_.data<BF16>()[i]);
    });
  }
  Tensor state(const std::string& slot) const { return at(*table_->find(id_, slot)); }
  const Tensor& weight() const { return weight_; }
  const ParamInfo& info() const { return params_.info(id_); }

 private:
  Tensor at(const StateEntry& entry) const {
    return state_->acquire({entry.id, item_.slice}).tensor();
  }
  template <typename F>
  std::vector<double> logical(F&& value) const {
    std::vector<double> out(static_cast<std::size_t>(weight_.numel()));
    for (std::int64_t i = 0; i < weight_.numel(); ++i)
      out[static_cast<std::size_t>(logical_element(info(), i))] = static_cast<double>(value(i));
    return out;
  }
  Tensor filled(std::int64_t step) {
    const Tensor t =
        Tensor::empty(*arena_, MemoryTag::kWeights, DType::kF32, info().storage_shape());
    for (std::int64_t i = 0; i < t.numel(); ++i)
      t.data<float>()[i] = fixture_value(logical_element(info(), i), step);
    return t;
  }

  std::unique_ptr<Arena> arena_ = Arena::make_cpu(1 << 26);
  ParamTable params_;
  ParamId id_{};
  const Optimizer& optimizer_;
  std::optional<StateTable> table_;
  mutable std::optional<ResidentState> state_;
  SliceSums sums_;
  MasterFormat master_;
  UpdateItem item_;
  std::int64_t state_step_ = 1;
  Tensor weight_, grad_, taken_;
  bool takes_projected_ = false;
};

inline ParamInfo matrix(std::int64_t out, std::int64_t in, ParamRole role = ParamRole::kMatrix) {
  return {.name = "m", .shape = Shape{out, in}, .role = role};
}

/// The weights after some steps of formula gradients.
inline std::vector<double> after(const Optimizer& optimizer, const ParamInfo& info, int steps,
                                 double lr = 0.01) {
  OneMatrix one(optimizer, info);
  for (int step = 1; step <= steps; ++step) one.step(step, lr);
  return one.weights();
}

}  // namespace thimble
