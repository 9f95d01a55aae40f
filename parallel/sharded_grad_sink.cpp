#include "parallel/sharded_grad_sink.h"

#include "core/base/numeric.h"
#include "core/base/random.h"
#include "core/ops/ops.h"

namespace thimble {
namespace {

constexpr std::int64_t kBucketBytes = 8 * kMiB;  // as sent, at least, before a reduction starts
constexpr std::size_t kMostRunning = 2;          // buckets whose buffers may be held at once

}  // namespace

ShardedGradSink::ShardedGradSink(const GradSinkParts& parts, GradSinkOptions options)
    : arena_(parts.arena),
      params_(parts.params),
      plan_(parts.plan),
      comm_(parts.comm),
      projection_(parts.projection),
      options_(std::move(options)),
      micro_batches_(1, std::vector<Tensor>(options_.local_dtypes.size())),
      total_(options_.local_dtypes.size()),
      reduced_(total_.size()),
      gathered_(total_.size()) {}

// What is sent together is of one micro-batch.
void ShardedGradSink::begin_micro_batch(std::size_t place, bool last) {
  start_bucket();
  if (place >= micro_batches_.size())
    micro_batches_.resize(place + 1, std::vector<Tensor>(total_.size()));
  place_ = place;
  last_micro_batch_ = last;
}

GradTarget ShardedGradSink::accumulate_into(ParamId id) {
  Tensor& grad = micro_batches_[place_].at(index(id));
  if (grad.defined()) return {grad, true};
  grad = Tensor::empty(arena_, MemoryTag::kGradients, options_.local_dtypes[index(id)],
                       params_.info(id).storage_shape(), "parameter gradient");
  return {grad, false};
}

void ShardedGradSink::complete(ParamId id) {
  Tensor gradient = std::exchange(micro_batches_[place_].at(index(id)), {});
  TH_CHECK(gradient.defined(), "no gradient reached {}", params_.info(id).name);
  gradient = projection_.apply(id, gradient);
  if (comm_.size() == 1 && home_takes(id) && !options_.adds_before_home) {
    home_->add(id, gradient, last_micro_batch_);
    return;
  }
  if (plan_.stage() < 2 || comm_.size() == 1) {
    Tensor& total = total_.at(index(id));
    if (total.defined()) {
      ops::accumulate(total, gradient);
    } else {
      total = std::move(gradient);
    }
    if (!last_micro_batch_) return;
    gradient = std::exchange(total, {});
  }
  if (comm_.size() == 1 && home_takes(id)) {
    home_->add(id, gradient, true);
  } else if (comm_.size() == 1) {
    reduced_.at(index(id)) = std::move(gradient);
    if (ready_) ready_(std::span(&id, 1));
  } else {
    reduce(id, std::move(gradient));
  }
}

// The shape of so many rows of a reduced gradient or projection.
Shape ShardedGradSink::rows_shape(ParamId id, std::int64_t rows) const {
  if (!params_.info(id).is_matrix()) return Shape{rows};
  const std::int64_t projection = projection_.width(id);
  return {rows, projection > 0 ? projection : params_.info(id).storage_shape()[1]};
}

void ShardedGradSink::reduce(ParamId id, Tensor gradient) {
  bucket_bytes_ += gradient.numel() * dtype_size(options_.reduce.comm_dtype);
  bucket_ids_.push_back(id);
  bucket_.push_back({std::move(gradient), plan_.spec(id).rows.bounds()});
  if (bucket_bytes_ >= kBucketBytes) start_bucket();
}

void ShardedGradSink::start_bucket() {
  if (bucket_ids_.empty()) return;
  if (running_.size() == kMostRunning) finish_oldest();
  const OpLabel label{"reduce_scatter", params_.info(bucket_ids_.front()).name};
  running_.push_back({RowReduction(comm_, arena_, label, bucket_, options_.reduce),
                      std::move(bucket_ids_), last_micro_batch_});
  bucket_ids_ = {};
  bucket_.clear();
  bucket_bytes_ = 0;
}

void ShardedGradSink::finish_oldest() {
  Running& oldest = running_.front();
  std::vector<GradTarget> targets;
  const DType dtype = sums_shards() ? DType::kF32 : options_.reduce.comm_dtype;
  for (const ParamId id : oldest.ids) {
    const Slice rows = plan_.reduced(id, comm_.rank());
    Tensor& reduced = reduced_.at(index(id));
    const bool accumulate = reduced.defined();
    if (!accumulate && plan_.stage() == 0) {
      const Shape whole = rows_shape(id, params_.info(id).storage_shape()[0]);
      gathered_.at(index(id)) =
          Tensor::empty(arena_, MemoryTag::kGradients, dtype, whole, "reduced gradient");
      reduced = gathered_.at(index(id)).rows(rows.begin, rows.end);
    } else if (!accumulate) {
      reduced = Tensor::empty(arena_, MemoryTag::kGradients, dtype, rows_shape(id, rows.rows()),
                              "reduced gradient");
    }
    targets.push_back({reduced, accumulate});
  }
  oldest.reduction.finish(targets);
  targets.clear();
  const std::vector<ParamId> ids = std::move(oldest.ids);
  const bool last = oldest.last;
  running_.pop_front();
  for (const ParamId id : ids) {
    if (goes_home(id, last)) home_->add(id, std::exchange(reduced_.at(index(id)), {}), last);
  }
  if (last && ready_ && plan_.stage() > 0) ready_(ids);
}

void ShardedGradSink::end_micro_batches() {
  start_bucket();
  while (!running_.empty()) finish_oldest();
  if (last_micro_batch_ && plan_.stage() == 0 && comm_.size() > 1) gather_reduced();
}

std::uint64_t ShardedGradSink::places_hash() const {
  std::uint64_t hash = 0;
  for (const Tensor& total : total_)
    hash = mix64(hash, static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(total.raw())));
  return hash;
}

void ShardedGradSink::gather_reduced() {
  std::vector<RowParts> parts;
  for (const ParamId id : params_.ids()) {
    if (gathered_.at(index(id)).defined())
      parts.push_back({gathered_.at(index(id)), plan_.spec(id).rows.bounds()});
  }
  start_all_gather(comm_, {"all_gather", "reduced gradients"}, parts).follow();
  for (const ParamId id : params_.ids()) {
    Tensor& whole = gathered_.at(index(id));
    if (whole.defined()) reduced_.at(index(id)) = std::exchange(whole, {});
  }
  if (!ready_) return;
  for (const ParamId id : params_.ids()) {
    if (reduced_.at(index(id)).defined()) ready_(std::span(&id, 1));
  }
}

void ShardedGradSink::release_all() {
  micro_batches_.assign(1, std::vector<Tensor>(total_.size()));
  for (std::vector<Tensor>* tensors : {&total_, &reduced_, &gathered_})
    tensors->assign(tensors->size(), {});
}

}  // namespace thimble
