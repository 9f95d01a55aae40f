#include "compress/matryoshka_model.h"

#include <algorithm>

#include "core/base/random.h"

namespace thimble {
namespace {

constexpr std::int64_t kRankSteps = 8;

// A number that a micro-batch alone decides, so that it is the same when a block is computed again,
// a run resumed, or ranks share the work otherwise.
std::uint64_t hash_of(const Tensor& ids) {
  std::uint64_t hash = 0;
  for (std::int64_t i = 0; i < ids.numel(); ++i)
    hash = mix64(hash, static_cast<std::uint64_t>(ids.data<std::int32_t>()[i]));
  return hash;
}

}  // namespace

class MatryoshkaModel::Tap final : public LayerTap {
 public:
  Tap(const MatryoshkaModel& owner, Context& ctx, const ModelInputs& inputs)
      : owner_(owner),
        ctx_(ctx),
        samples_(ctx.tape != nullptr),
        hash_(ctx.arena.device().planning ? 0 : hash_of(inputs.batch.ids)) {}

  void after_rope(int layer, Var& /*q*/, Var& k, Var& v) override {
    const LayerBases& bases = owner_.bases_[static_cast<std::size_t>(layer)];
    const ChannelRanks ranks = owner_.config().ranks;
    k = project_channels(ctx_, k, bases.keys, rank(layer, 0, ranks.key));
    v = project_channels(ctx_, v, bases.values, rank(layer, 1, ranks.value));
  }

 private:
  std::int64_t rank(int layer, std::uint64_t of, std::int64_t otherwise) const {
    if (!samples_) return otherwise;
    const CounterRandom random(hash_, RandomPurpose::kSampling, of);
    const auto step =
        static_cast<std::int64_t>(random.u32(static_cast<std::uint64_t>(layer)) % kRankSteps) + 1;
    return std::max<std::int64_t>(1, owner_.shape().head_dim * step / kRankSteps);
  }

  const MatryoshkaModel& owner_;
  Context& ctx_;
  bool samples_;
  std::uint64_t hash_;
};

MatryoshkaModel::MatryoshkaModel(const TrainableModel& of, const BackboneShape& backbone,
                                 const CompressorConfig& settings)
    : CompressorModel(of, backbone, settings) {
  for (int layer = 0; layer < shape().layers; ++layer)
    bases_.push_back({.keys = add_basis(layer, 'k'), .values = add_basis(layer, 'v')});
}

BasisWeights MatryoshkaModel::add_basis(int layer, char of) {
  const std::string prefix = fmt::format("layers.{}.mkv.{}_", layer, of);
  const Shape square{shape().kv_width(), shape().head_dim};
  return {.basis = add_param(layer, prefix + "basis", square, false),
          .mean = add_param(layer, prefix + "mean", Shape{shape().kv_width()}, false),
          .skew = add_param(layer, prefix + "skew", square, true)};
}

std::vector<int> MatryoshkaModel::gathers_per_micro_batch() const {
  std::vector<int> gathers = CompressorModel::gathers_per_micro_batch();
  for (int& times : gathers) ++times;  // of the teacher's pass, which pins whole blocks
  return gathers;
}

// The model's own pass, which leaves nothing behind.
Tensor MatryoshkaModel::teacher_hidden(Context& ctx, const ModelInputs& inputs) const {
  Context plain = ctx;
  plain.tape = nullptr;
  Var x;
  for (std::size_t i = 0; i + 1 < num_stages(); ++i)
    x = model().stage(plain, inputs, i, std::move(x));
  return x.value;
}

Var MatryoshkaModel::stage(Context& ctx, const ModelInputs& inputs, std::size_t index,
                           Var x) const {
  ModelInputs own = inputs;
  if (index + 1 == num_stages()) {
    own.teacher = teacher_hidden(ctx, inputs);
    own.teacher_share = kTeacherShare;
    return model().stage(ctx, own, index, std::move(x));
  }
  const auto tap = std::make_shared<Tap>(*this, ctx, inputs);
  // Runs after the nodes of this stage, and lives until then.
  if (ctx.recording()) ctx.tape->record([tap](Tape&) {});
  own.tap = tap.get();
  return model().stage(ctx, own, index, std::move(x));
}

}  // namespace thimble
