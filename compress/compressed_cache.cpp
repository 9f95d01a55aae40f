#include "compress/compressed_cache.h"

#include <algorithm>
#include <numeric>

#include "compress/budgets.h"
#include "compress/cache_attention.h"
#include "core/base/random.h"

namespace thimble {
namespace {

constexpr double kSafeguard = 0.2;  // of Ada-KV

// Channels of a position that are stored.
StoredDims stored_dims(const KvPlan& plan) {
  const auto& bases = plan.options.bases;
  if (bases == nullptr) return {plan.shape.head_dim, plan.shape.head_dim};
  return {bases->key_rank(), bases->value_rank()};
}

BlockLayout plain_layout(const KvPlan& plan) {
  return {stored_dims(plan), plan.shape.dtype, 16, kBlockTokens};
}

// Of caches that do not pack there is none.
BlockLayout packed_layout(const KvPlan& plan) {
  return {stored_dims(plan), plan.shape.dtype, std::min<std::int64_t>(plan.options.bits, 8),
          plan.options.group};
}

// The sinks and the most recent positions.
std::vector<std::vector<std::int64_t>> keep_window(const LayerContent& content,
                                                   const LayerPlan& plan) {
  std::vector<std::vector<std::int64_t>> kept;
  for (std::int64_t h = 0; h < content.heads(); ++h) {
    const std::int64_t n = content.length(h), budget = std::min(plan.budget, n);
    const std::int64_t sinks = std::min(plan.sinks, budget);
    std::vector<std::int64_t>& rows = kept.emplace_back(static_cast<std::size_t>(budget));
    std::iota(rows.begin(), rows.begin() + sinks, 0);
    std::iota(rows.begin() + sinks, rows.end(), n - (budget - sinks));
  }
  return kept;
}

}  // namespace

CompressedKvCache::CompressedKvCache(Arena& arena, const KvPlan& plan)
    : plan_(plan),
      planning_(arena.device().planning),
      plain_pool_(arena, plain_layout(plan).bytes, plan.plain_blocks, "blocks of keys and values"),
      packed_pool_(arena, packed_layout(plan).bytes, plan.packed_blocks, "packed keys and values"),
      store_{.plain = plain_layout(plan),
             .packed = packed_layout(plan),
             .plain_pool = plain_pool_,
             .packed_pool = packed_pool_,
             .window = plan.options.window,
             .packs = plan.options.bits < 16,
             .planning = planning_},
      scorer_(make_scorer(arena, plan)) {
  TH_CHECK(arena.is_on_cpu(), "a compressed cache on a GPU");
  for (std::int64_t i = 0; i < plan.shape.layers * plan.shape.kv_heads; ++i)
    heads_.emplace_back(store_);
  peak_bytes_ = used_bytes();
}

std::span<HeadCache> CompressedKvCache::heads_of(int layer) {
  const auto count = static_cast<std::size_t>(plan_.shape.kv_heads);
  return std::span(heads_).subspan(static_cast<std::size_t>(layer) * count, count);
}
std::span<const HeadCache> CompressedKvCache::heads_of(int layer) const {
  const auto count = static_cast<std::size_t>(plan_.shape.kv_heads);
  return std::span(heads_).subspan(static_cast<std::size_t>(layer) * count, count);
}

KeyRotation CompressedKvCache::rotation() const {
  return {.stored_rotated = plan_.options.rope_stage == RopeStage::kPost,
          .positions = plan_.options.positions};
}

bool CompressedKvCache::reads_unrotated() const {
  return plan_.options.rope_stage == RopeStage::kPre ||
         (scorer_ != nullptr && scorer_->reads_unrotated());
}

void CompressedKvCache::clear() {
  for (HeadCache& head : heads_) head.clear();
  if (scorer_ != nullptr) scorer_->clear();
  length_ = 0;
}

std::int64_t CompressedKvCache::kept(int layer, std::int64_t head) const {
  return heads_of(layer)[static_cast<std::size_t>(head)].length();
}

std::int64_t CompressedKvCache::bytes() const {
  return plain_pool_.bytes() + packed_pool_.bytes() + (scorer_ == nullptr ? 0 : scorer_->bytes());
}

std::int64_t CompressedKvCache::used_bytes() const {
  return plain_pool_.used_bytes() + packed_pool_.used_bytes() +
         (scorer_ == nullptr ? 0 : scorer_->bytes());
}

std::vector<std::int32_t> CompressedKvCache::positions(int layer, std::int64_t head) const {
  const HeadCache& cache = this->head(layer, head);
  std::vector<std::int32_t> out(static_cast<std::size_t>(cache.length()));
  cache.gather({.positions = out.data()});
  return out;
}

std::int64_t CompressedKvCache::planned_bytes(const KvPlan& plan) {
  const std::unique_ptr<Arena> arena = Arena::make_planning();
  return CompressedKvCache(*arena, plan).bytes();
}

// The longest that a head may be, `added` new positions included.
std::int64_t CompressedKvCache::most_rows(int layer, std::int64_t added) const {
  const LayerPlan& plan = layer_plan(layer);
  const std::int64_t limit = plan.ragged ? plan.limit * plan_.shape.kv_heads : plan.limit;
  return std::min(length_, limit) + added;
}

bool CompressedKvCache::is_over(int layer, std::int64_t added) const {
  const LayerPlan& plan = layer_plan(layer);
  std::int64_t tokens = 0;
  for (const HeadCache& head : heads_of(layer)) tokens += head.length() + added;
  return plan.method != KvMethod::kFull && tokens > plan.limit * plan_.shape.kv_heads;
}

void CompressedKvCache::append(int layer, const NewRows& rows) {
  const StoredDims dims = stored_dims(plan_);
  const std::int64_t size = dtype_size(rows.keys.dtype());
  std::int64_t head = 0;
  for (HeadCache& cache : heads_of(layer)) {
    const auto* scores = static_cast<const float*>(rows.scores.raw());
    cache.append_rows(
        {.keys = static_cast<const char*>(rows.keys.raw()) + head * dims.key * size,
         .values = static_cast<const char*>(rows.values.raw()) + head * dims.value * size,
         .key_stride = rows.keys.dim(1),
         .value_stride = rows.values.dim(1),
         .positions = static_cast<const std::int32_t*>(rows.positions.raw()),
         .scores = scores == nullptr ? nullptr : scores + head * rows.count()},
        rows.count());
    ++head;
  }
}

// Scores what a layer holds and keeps the best of it.
void CompressedKvCache::evict(Arena& arena, const KvQueries& in, const LayerContent& content) {
  const LayerPlan& plan = layer_plan(in.layer);
  std::vector<std::vector<std::int64_t>> kept;
  if (plan.method != KvMethod::kWindow) scorer_->score(arena, in, content);
  if (plan.method == KvMethod::kWindow || planning_) {
    kept = keep_window(content, plan);
  } else {
    std::vector<HeadScores> heads;
    for (std::int64_t h = 0; h < content.heads(); ++h) {
      const auto first = content.first_row(h);
      const auto count = static_cast<std::size_t>(content.length(h));
      heads.push_back({.scores = {content.scores.data<float>() + first, count},
                       .positions = {content.positions.data<std::int32_t>() + first, count},
                       .sinks = plan.sinks,
                       .window = plan.window});
    }
    kept =
        plan.ragged ? keep_adaptive(heads, plan.budget, kSafeguard) : keep_even(heads, plan.budget);
  }
  keep_rows(heads_of(in.layer), content, kept);
}

void CompressedKvCache::set_attended(Arena& arena, LayerContent& content,
                                     const KvQueries& in) const {
  if (plan_.options.bases != nullptr) {
    rebuild_content(arena, content, plan_.options.bases->layer(in.layer));
  } else {
    rotate_content(arena, content, rotation(), in.rope_table);
  }
}

void CompressedKvCache::attend_chunk(Arena& arena, const KvQueries& in, const NewRows& rows,
                                     const Tensor& out) {
  LayerContent content =
      gather_layer(arena, heads_of(in.layer), rows, most_rows(in.layer, in.q.dim(0)));
  set_attended(arena, content, in);
  attend_content(arena, content, in, rotation(), out);
  const bool over = is_over(in.layer, in.q.dim(0));
  const bool sums = scorer_ != nullptr && scorer_->sums_attention() &&
                    layer_plan(in.layer).method != KvMethod::kWindow;
  if (sums) add_chunk_mass(arena, in, rotation(), content);
  if (over) {
    evict(arena, in, content);
  } else if (sums) {
    // What is there has new scores.
    std::vector<std::vector<std::int64_t>> all;
    for (std::int64_t h = 0; h < content.heads(); ++h) {
      std::vector<std::int64_t>& rows =
          all.emplace_back(static_cast<std::size_t>(content.length(h)));
      std::iota(rows.begin(), rows.end(), 0);
    }
    keep_rows(heads_of(in.layer), content, all);
  } else {
    append(in.layer, rows);
  }
}

void CompressedKvCache::attend_one(Arena& arena, const KvQueries& in, const NewRows& rows,
                                   const Tensor& out) {
  append(in.layer, rows);
  const bool sums = scorer_ != nullptr && scorer_->sums_attention() &&
                    layer_plan(in.layer).method != KvMethod::kWindow;
  const CacheAttention how{.rotation = rotation(), .sums = sums};
  if (plan_.options.bases == nullptr) {
    attend_heads(arena, heads_of(in.layer), in, how, out);
  } else {
    const ChannelBases& bases = *plan_.options.bases;
    KvQueries projected = in;
    projected.q = bases.queries(arena, in);
    const Tensor coordinates =
        Tensor::empty(arena, MemoryTag::kWorkspace, out.dtype(),
                      Shape{1, in.shape.heads * bases.value_rank()}, "coordinates of attention");
    attend_heads(arena, heads_of(in.layer), projected, how, coordinates);
    bases.expand(arena, in.layer, coordinates, out);
  }
  // A plan must know the memory of an eviction, whenever it comes.
  if (layer_plan(in.layer).method == KvMethod::kFull || (!planning_ && !is_over(in.layer, 1)))
    return;
  LayerContent content = gather_layer(arena, heads_of(in.layer), {}, most_rows(in.layer, 1));
  set_attended(arena, content, in);
  evict(arena, in, content);
}

Tensor CompressedKvCache::attend(Arena& arena, const KvQueries& in) {
  TH_CHECK(in.shape.batch == 1 && in.shape.heads == plan_.shape.heads &&
           in.shape.kv_heads == plan_.shape.kv_heads && in.k.dtype() == plan_.shape.dtype);
  TH_CHECK(length_ + in.q.dim(0) <= capacity(), "{} positions in a cache of {}",
           length_ + in.q.dim(0), capacity());
  Tensor out =
      Tensor::empty(arena, MemoryTag::kActivations, in.q.dtype(), in.q.shape(), "attention");
  if (scorer_ != nullptr && !planning_) scorer_->observe(in);
  const bool raw = plan_.options.rope_stage == RopeStage::kPre;
  const ChannelBases* bases = plan_.options.bases.get();
  const NewRows rows{.keys = bases != nullptr ? bases->keys(arena, in)
                             : raw            ? in.raw_k
                                              : in.k,
                     .values = bases != nullptr ? bases->values(arena, in) : in.v,
                     .positions = in.positions,
                     .scores = scorer_ != nullptr ? scorer_->new_scores(arena, in) : Tensor()};
  if (in.q.dim(0) == 1) {
    attend_one(arena, in, rows, out);
  } else {
    attend_chunk(arena, in, rows, out);
  }
  peak_bytes_ = std::max(peak_bytes_, used_bytes());
  return out;
}

void CompressedKvCache::fill_random(std::int64_t count, std::uint64_t seed) {
  const StoredDims dims = stored_dims(plan_);
  const std::int64_t d = std::max(dims.key, dims.value);
  constexpr std::int64_t kRows = 509;  // that take turns
  const CounterRandom random(seed, RandomPurpose::kSampling);
  std::vector<float> rows(static_cast<std::size_t>(kRows * d));
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = 2 * random.uniform(i) - 1;
  std::vector<BF16> narrow_rows;
  for (const float x : rows) narrow_rows.push_back(to_bf16(x));
  const bool is_narrow = plan_.shape.dtype == DType::kBF16;
  const void* from = is_narrow ? static_cast<const void*>(narrow_rows.data()) : rows.data();
  clear();
  for (std::size_t i = 0; i < heads_.size(); ++i) {
    const LayerPlan& plan = plan_.layers[i / static_cast<std::size_t>(plan_.shape.kv_heads)];
    const std::int64_t held = std::min(count, plan.budget);
    std::vector<std::int32_t> positions(static_cast<std::size_t>(kRows));
    for (std::int64_t t = 0; t < held; t += kRows) {
      std::iota(positions.begin(), positions.end(), static_cast<std::int32_t>(count - held + t));
      heads_[i].append_rows({.keys = from,
                             .values = from,
                             .key_stride = d,
                             .value_stride = d,
                             .positions = positions.data()},
                            std::min(kRows, held - t));
    }
  }
  length_ = count;
  peak_bytes_ = used_bytes();
}

}  // namespace thimble
