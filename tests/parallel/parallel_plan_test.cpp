// The plan is a pure function: every row has one owner, whatever the sizes.
#include "parallel/parallel_plan.h"

#include <gtest/gtest.h>

#include "core/base/error.h"

namespace thimble {
namespace {

ParamTable some_params() {
  ParamTable params;
  params.add({.name = "embed", .shape = Shape{61, 12}, .role = ParamRole::kEmbedding});
  params.add({.name = "wide", .shape = Shape{7, 5461}});
  params.add({.name = "square", .shape = Shape{48, 48}});
  params.add({.name = "tiny", .shape = Shape{1, 1}});
  params.add({.name = "norm", .shape = Shape{12}, .role = ParamRole::kNorm});
  params.add({.name = "norm2", .shape = Shape{11}, .role = ParamRole::kNorm});
  return params;
}

OptimizerNeed any_slice(const ParamInfo&) {
  return {};
}

TEST(ParallelPlanTest, EveryRowHasOneOwner) {
  const ParamTable params = some_params();
  for (const int ranks : {1, 2, 3, 4, 7, 100}) {
    for (const std::int64_t granule : {1, 5, 64}) {
      const ParallelPlan plan(params,
                              [&](const ParamInfo&) {
                                return OptimizerNeed{OptimizerNeed::Kind::kLongSlice, granule};
                              },
                              {.ranks = ranks, .stage = 1, .small_elements = 10});
      for (const ParamId id : params.ids()) {
        const ShardSpec& spec = plan.spec(id);
        const std::vector<std::int64_t> bounds = spec.rows.bounds();
        ASSERT_EQ(bounds.size(), static_cast<std::size_t>(ranks) + 1);
        EXPECT_EQ(bounds.front(), 0);
        EXPECT_EQ(bounds.back(), params.info(id).storage_shape()[0]);
        EXPECT_GT(spec.rows.slice(spec.rows.first_owner()).rows(), 0);
        EXPECT_EQ(spec.rows.slice(spec.rows.first_owner()).begin, 0);
        for (int r = 0; r < ranks; ++r) {
          EXPECT_LE(spec.rows.slice(r).begin, spec.rows.slice(r).end);
          const bool at_end = spec.rows.slice(r).begin == bounds.back();
          if (spec.placement != Placement::kWhole && !at_end) {
            EXPECT_EQ(spec.rows.slice(r).begin % granule, 0);
          }
        }
      }
    }
  }
}

TEST(ParallelPlanTest, PlacementsFollowShapeAndNeed) {
  const ParamTable params = some_params();
  const ParallelPlan plan(params,
                          [](const ParamInfo& info) {
                            return info.name == "square"
                                       ? OptimizerNeed{OptimizerNeed::Kind::kWhole, 1}
                                       : OptimizerNeed{};
                          },
                          {.ranks = 3, .stage = 2, .small_elements = 100});
  const auto placement = [&](const char* name) { return plan.spec(*params.find(name)).placement; };
  EXPECT_EQ(placement("embed"), Placement::kRows);
  EXPECT_EQ(placement("wide"), Placement::kColumns);
  EXPECT_EQ(placement("square"), Placement::kWhole);
  EXPECT_EQ(placement("tiny"), Placement::kWhole);
  EXPECT_EQ(placement("norm"), Placement::kWhole);
}

TEST(ParallelPlanTest, WholeParametersAreBalanced) {
  ParamTable params;
  for (int i = 0; i < 40; ++i)
    params.add(
        {.name = fmt::format("norm{}", i), .shape = Shape{100 + i}, .role = ParamRole::kNorm});
  const ParallelPlan plan(params, any_slice, {.ranks = 4, .stage = 1});
  std::vector<std::int64_t> load(4);
  for (const ParamId id : params.ids()) {
    for (int r = 0; r < 4; ++r)
      load[static_cast<std::size_t>(r)] += plan.spec(id).rows.slice(r).rows();
  }
  EXPECT_LE(
      *std::max_element(load.begin(), load.end()) - *std::min_element(load.begin(), load.end()),
      139);
}

TEST(ParallelPlanTest, AtStageZeroEveryRankUpdatesEverything) {
  const ParamTable params = some_params();
  const ParallelPlan plan(params, any_slice, {.ranks = 3, .stage = 0, .small_elements = 10});
  for (const ParamId id : params.ids()) {
    EXPECT_EQ(plan.spec(id).placement, Placement::kReplicated);
    for (int r = 0; r < 3; ++r) EXPECT_EQ(plan.updated(id, r), whole_slice(params.info(id)));
  }
}

TEST(ParallelPlanTest, TrafficOverAllRanksIsTheFormula) {
  const ParamTable params = some_params();
  const std::int64_t psi = params.num_elements();
  const std::vector<int> gathers(static_cast<std::size_t>(params.size()), 2);
  for (const int ranks : {1, 2, 5}) {
    for (const std::int64_t m : {1, 3}) {
      const std::int64_t units[] = {2, 2, m + 1, 3 * m};  // of (N - 1) psi elements of 2 bytes
      for (int stage = 0; stage <= 3; ++stage) {
        const ParallelPlan plan(params, any_slice,
                                {.ranks = ranks, .stage = stage, .small_elements = 10});
        std::int64_t total = 0;
        for (int r = 0; r < ranks; ++r) {
          total +=
              plan.step_traffic(
                      params, r,
                      {.micro_batches = m, .weight_passes = m, .gathers_per_micro_batch = gathers})
                  .total();
        }
        EXPECT_EQ(total, (ranks - 1) * psi * 2 * units[stage])
            << ranks << " ranks, stage " << stage;
      }
    }
  }
}

TEST(ParallelPlanTest, NonsenseIsRefused) {
  const ParamTable params = some_params();
  EXPECT_THROW(ParallelPlan(params, any_slice, {.ranks = 0}), UserError);
  EXPECT_THROW(ParallelPlan(params, any_slice, {.ranks = 2, .stage = 4}), UserError);
}

}  // namespace
}  // namespace thimble
