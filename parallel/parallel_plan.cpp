#include "parallel/parallel_plan.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

// What updating a whole matrix costs: an orthogonalisation or a decomposition of it.
double update_cost(const ParamInfo& info) {
  const auto m = static_cast<double>(info.shape[0]);
  if (!info.is_matrix()) return m;
  const auto n = static_cast<double>(info.shape[1]);
  return m * n * std::min(m, n);
}

}  // namespace

const char* placement_name(Placement placement) {
  switch (placement) {
    case Placement::kReplicated:
      return "replicated";
    case Placement::kRows:
      return "rows";
    case Placement::kColumns:
      return "columns";
    case Placement::kWhole:
      return "whole";
  }
  return "?";
}

ParallelPlan::ParallelPlan(const ParamTable& params, const Needs& needs,
                           const ParallelOptions& options)
    : options_(options) {
  if (options.ranks < 1) throw_user("{} ranks: allowed 1 and more", options.ranks);
  if (options.stage < 0 || options.stage > 3)
    throw_user("ZeRO stage {}: allowed 0, 1, 2, 3", options.stage);
  const int ranks = options.ranks;
  std::vector<ParamId> large,
      small;  // to be owned whole: matrices the optimizer needs whole; what is not worth cutting
  specs_.resize(static_cast<std::size_t>(params.size()));
  for (const ParamId id : params.ids()) {
    const ParamInfo& info = params.info(id);
    ShardSpec& spec = specs_[static_cast<std::size_t>(id)];
    const std::int64_t rows = info.storage_shape()[0];
    wholes_.push_back(whole_slice(info));
    const OptimizerNeed need = info.trainable ? needs(info) : OptimizerNeed{};
    if (need.kind == OptimizerNeed::Kind::kWhole && info.is_matrix()) {
      large.push_back(id);
    } else if (!info.is_matrix() || info.shape.numel() <= options.small_elements) {
      small.push_back(id);
    } else {
      spec.placement = info.transposed() ? Placement::kColumns : Placement::kRows;
      spec.rows = {.rows = rows, .granule = need.granule_rows, .ranks = ranks};
    }
  }
  // Longest processing time first: each to the rank that has least to do so far.
  for (std::vector<ParamId>* group : {&large, &small}) {
    std::vector<double> load(static_cast<std::size_t>(ranks));
    std::stable_sort(group->begin(), group->end(), [&](ParamId a, ParamId b) {
      return update_cost(params.info(a)) > update_cost(params.info(b));
    });
    for (const ParamId id : *group) {
      const ParamInfo& info = params.info(id);
      const auto least = std::min_element(load.begin(), load.end());
      *least += update_cost(info);
      specs_[static_cast<std::size_t>(id)] = {
          Placement::kWhole,
          {.rows = info.storage_shape()[0],
           .granule = info.trainable ? needs(info).granule_rows : 1,
           .ranks = ranks,
           .owner = static_cast<int>(least - load.begin())}};
    }
  }
  if (ranks == 1 || options.stage == 0) {
    for (ShardSpec& spec : specs_) spec.placement = Placement::kReplicated;
  }
}

Slice ParallelPlan::updated(ParamId id, int rank) const {
  return options_.stage == 0 ? wholes_.at(static_cast<std::size_t>(id)) : spec(id).rows.slice(rank);
}

StepTraffic ParallelPlan::step_traffic(const ParamTable& params, int rank,
                                       const TrafficTerms& terms) const {
  StepTraffic traffic;
  const std::int64_t comm_size = dtype_size(terms.comm_dtype),
                     weight_size = dtype_size(terms.weight_dtype);
  const std::int64_t reductions = options_.stage >= 2 ? terms.micro_batches : 1;
  for (const ParamId id : params.ids()) {
    const auto i = static_cast<std::size_t>(id);
    const ParamInfo& info = params.info(id);
    const std::int64_t rows = info.storage_shape()[0];
    const std::int64_t row = info.shape.numel() / std::max<std::int64_t>(rows, 1);
    const std::int64_t own = spec(id).rows.slice(rank).rows() * row,
                       others = info.shape.numel() - own;
    const std::int64_t projection =
        terms.projected_widths.empty() ? 0 : terms.projected_widths.at(i);
    const auto sent = [&](std::int64_t elements) {
      return projection > 0 ? elements / row * projection : elements;
    };
    const bool updated = info.trainable && projection != kNotUpdated;
    const bool int8 = !terms.int8_weights.empty() && terms.int8_weights.at(i);
    if (updated) traffic.reduce_bytes += sent(others) * comm_size * reductions;
    const std::int64_t to_all = own * (options_.ranks - 1);
    if (options_.stage == 3) {
      traffic.gather_bytes +=
          to_all * weight_size * terms.gathers_per_micro_batch.at(i) * terms.weight_passes;
    } else if (updated && options_.stage > 0 && int8) {
      traffic.gather_bytes += to_all + ceil_div(own, kInt8Group) * 4 * (options_.ranks - 1);
    } else if (updated) {
      traffic.gather_bytes += options_.stage == 0 ? sent(to_all) * comm_size : to_all * weight_size;
    }
  }
  return traffic;
}

}  // namespace thimble
