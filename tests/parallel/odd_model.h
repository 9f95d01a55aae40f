// A language model that is no transformer and does all that a TrainableModel may: weights that are
// used twice in a pass and in two blocks, a block that runs twice, frozen weights, low-rank pairs
// beside them, matrices one wide, a vector of one element, several tables, and parameters in no
// order of their blocks.
#pragma once

#include <array>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "core/nn/trainable_model.h"
#include "optim/groups.h"

namespace thimble {

/// Whether the suites of training train this model: THIMBLE_TEST_MODEL=odd.
inline bool tests_train_odd_model() {
  const char* which = std::getenv("THIMBLE_TEST_MODEL");
  return which != nullptr && std::string_view(which) == "odd";
}

class OddModel final : public TrainableModel {
 public:
  static constexpr std::int64_t kVocab = 61;

  // `wide`: more columns than tokens, so that the embedding and the head are stored transposed.
  explicit OddModel(bool tied, bool wide = false) : width_(wide ? 72 : 24) {
    const std::int64_t c = width_, f = 37;
    final_norm_ = add("out.norm", kLast, {c}, ParamRole::kNorm);
    if (!tied) head_ = add("out.weight", kLast, {kVocab, c}, ParamRole::kHead);
    narrow_out_ = add("third.out.weight", 3, {c, 1});
    narrow_in_ = add("third.in.weight", 3, {1, c});
    narrow_bias_ = add("third.in.bias", 3, {1}, ParamRole::kBias);
    third_norm_ = add("third.norm", 3, {c}, ParamRole::kNorm);
    twice_ = add("second.twice.weight", 2, {c, c});
    twice_bias_ = add("second.twice.bias", 2, {c}, ParamRole::kBias);
    frozen_ = add("second.base.weight", 2, {c, c});
    frozen_bias_ = add("second.base.bias", 2, {c}, ParamRole::kBias);
    for (const Weight& w : {frozen_, frozen_bias_}) params_.set_trainable(w.id, false);
    low_in_ = add("second.base.low_in.weight", 2, {2, c});
    low_out_ = add("second.base.low_out.weight", 2, {c, 2});
    squash_ = add("second.squash", 2, {1}, ParamRole::kNorm);
    second_norm_ = add("second.norm", 2, {c}, ParamRole::kNorm);
    shared_ = add("shared.weight", 1, {c, c});
    shared_bias_ = add("shared.bias", 1, {c}, ParamRole::kBias);
    gate_ = add("first.gate.weight", 1, {f, c});
    gate_bias_ = add("first.gate.bias", 1, {f}, ParamRole::kBias);
    up_ = add("first.up.weight", 1, {f, c});
    down_ = add("first.down.weight", 1, {c, f});
    first_norm_ = add("first.norm", 1, {c}, ParamRole::kNorm);
    embedding_ = add("in.weight", 0, {kVocab, c}, ParamRole::kEmbedding);
    if (tied) head_ = {embedding_.id, kLast};
  }

  const ParamTable& params() const override { return params_; }
  std::vector<std::vector<ParamId>> block_params() const override {
    std::vector<std::vector<ParamId>> blocks(kLast + 1);
    for (const ParamId id : params_.ids())
      blocks[static_cast<std::size_t>(block_of(id))].push_back(id);
    for (const Weight& w : {shared_, shared_bias_}) blocks[3].insert(blocks[3].begin(), w.id);
    if (head_.id == embedding_.id) blocks[kLast].push_back(head_.id);
    return blocks;
  }
  // Forward and backward passes of each visit; the embedding's backward pass reads no weight.
  std::vector<int> gathers_per_micro_batch() const override {
    std::vector<int> gathers;
    for (const ParamId id : params_.ids()) {
      const BlockId block = block_of(id);
      gathers.push_back(block == 0 ? 1 : block == 2 || is_shared(id) ? 4 : 2);
    }
    if (head_.id == embedding_.id) gathers[static_cast<std::size_t>(head_.id)] += 2;
    return gathers;
  }
  bool is_summed_in_backward(ParamId id) const override {
    return id == head_.id || id == first_norm_.id || is_shared(id) || block_of(id) == 2;
  }
  std::vector<NamedSize> linear_sizes() const override {
    return {{"the model's width", width_}, {"the third block's inner width", 1}};
  }

  std::vector<Tensor> make_tables(Arena& arena, std::int64_t seq_len) const override {
    return {rotations(arena, seq_len, 8, 100.0), rotations(arena, seq_len, 4, 17.0)};
  }
  std::size_t num_stages() const override { return kBlocks.size() + 2; }
  Var stage(Context& ctx, const ModelInputs& in, std::size_t index, Var x) const override {
    TH_CHECK_EQ(in.tables.size(), 2u);
    if (index == 0) return embedding(ctx, in.batch.ids, in.batch.order, embedding_);
    if (index > kBlocks.size()) return losses(ctx, in, x);
    const BlockId block = kBlocks[index - 1];
    const AttentionContext places{.positions = in.batch.positions,
                                  .rope_table = in.tables[block == 1 ? 0 : 1]};
    const auto body = [this, &ctx, block, places](const Var& of) {
      return block == 1   ? first(ctx, of, places)
             : block == 2 ? second(ctx, of)
                          : third(ctx, of, places);
    };
    return ctx.tape != nullptr ? ctx.tape->checkpoint(x, body) : body(x);
  }

 private:
  static constexpr BlockId kLast = 4;
  static constexpr float kEps = 1e-5f;
  static constexpr std::array<BlockId, 4> kBlocks{1, 2, 2, 3};  // of the stages between the ends

  Weight add(const char* name, BlockId block, std::initializer_list<std::int64_t> shape,
             ParamRole role = ParamRole::kMatrix) {
    blocks_.push_back(block);
    return {params_.add({.name = name,
                         .shape = Shape(shape),
                         .role = role,
                         .layer = block > 0 && block < kLast ? block - 1 : -1}),
            block};
  }
  BlockId block_of(ParamId id) const { return blocks_.at(static_cast<std::size_t>(id)); }
  bool is_shared(ParamId id) const { return id == shared_.id || id == shared_bias_.id; }

  static Tensor rotations(Arena& arena, std::int64_t seq_len, std::int64_t dim, double base) {
    const Tensor table = Tensor::empty(arena, MemoryTag::kWorkspace, DType::kF32,
                                       Shape{seq_len, dim}, "odd rotations");
    if (arena.device().planning) return table;
    std::vector<float> values;
    for (std::int64_t p = 0; p < seq_len; ++p) {
      for (std::int64_t i = 0; i < dim; ++i) {
        const double angle =
            static_cast<double>(p) *
            std::pow(base, -static_cast<double>(i % (dim / 2)) / static_cast<double>(dim));
        values.push_back(static_cast<float>(i < dim / 2 ? std::cos(angle) : std::sin(angle)));
      }
    }
    ops::from_host(table, values.data());
    return table;
  }

  Var losses(Context& ctx, const ModelInputs& in, const Var& x) const {
    const BlockScope scope(ctx, kLast);
    return {.value = lm_head_loss(ctx, rms_norm(ctx, x, final_norm_, kEps), head_,
                                  {.targets = in.batch.targets,
                                   .weights = in.batch.weights,
                                   .grad_scale = in.grad_scale})};
  }

  Var first(Context& ctx, const Var& x, const AttentionContext& places) const {
    const BlockScope scope(ctx, 1);
    Var turned =
        rope(ctx, linear(ctx, rms_norm(ctx, x, first_norm_, kEps), shared_, shared_bias_), places);
    const Var middle = thimble::add(ctx, x, std::move(turned));
    const Var y = rms_norm(ctx, middle, first_norm_, kEps);
    const Var gate = linear(ctx, y, gate_, gate_bias_);
    return thimble::add(ctx, middle, linear(ctx, swiglu(ctx, gate, linear(ctx, y, up_)), down_));
  }

  // A norm over single elements with a large eps squashes them.
  Var second(Context& ctx, const Var& x) const {
    const BlockScope scope(ctx, 2);
    const Var y = rms_norm(ctx, x, second_norm_, kEps);
    const Var base = linear(ctx, y, frozen_, frozen_bias_);
    const Var z =
        rms_norm(ctx, thimble::add(ctx, base, linear(ctx, linear(ctx, y, low_in_), low_out_)),
                 squash_, 1.0f);
    return thimble::add(ctx, x, linear(ctx, linear(ctx, z, twice_, twice_bias_), twice_));
  }

  Var third(Context& ctx, const Var& x, const AttentionContext& places) const {
    const BlockScope scope(ctx, 3);
    const Weight shared{shared_.id, 3}, bias{shared_bias_.id, 3};
    const Var y = rope(ctx, linear(ctx, rms_norm(ctx, x, third_norm_, kEps), shared, bias), places);
    return thimble::add(ctx, x, linear(ctx, linear(ctx, y, narrow_in_, narrow_bias_), narrow_out_));
  }

  std::int64_t width_;
  ParamTable params_;
  std::vector<BlockId> blocks_;  // by parameter: the first
  Weight embedding_, head_, final_norm_, first_norm_, second_norm_, third_norm_;
  Weight shared_, shared_bias_, gate_, gate_bias_, up_, down_;
  Weight frozen_, frozen_bias_, low_in_, low_out_, squash_, twice_, twice_bias_;
  Weight narrow_in_, narrow_bias_, narrow_out_;
};

// For matrices that are narrower than the rank of `main`: the same with rank 1.
inline std::vector<GroupSettings> narrow_groups(const ParamTable& params, GroupSettings main) {
  std::string names;
  for (const ParamId id : params.ids()) {
    const ParamInfo& info = params.info(id);
    if (info.trainable && info.is_matrix() && info.storage_shape()[1] < *main.optimizer.rank)
      names += (names.empty() ? "" : "|") + info.name;
  }
  if (names.empty()) return {};
  main.label = "narrow";
  main.match = names;
  main.optimizer.rank = 1;
  return {main};
}

}  // namespace thimble
