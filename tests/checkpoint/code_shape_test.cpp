#include "checkpoint/code_shape.h"

#include <gtest/gtest.h>

#include <bit>

#include "core/base/error.h"
#include "tests/io/temp_dir.h"

namespace thimble {
namespace {

TEST(CodeShape, IsReadFromItsText) {
  EXPECT_EQ(parse_code_shape("6+2", "f"), (CodeShape{6, 2}));
  EXPECT_EQ(parse_code_shape("1+1", "f"), (CodeShape{1, 1}));
  EXPECT_EQ(parse_code_shape("255+1", "f"), (CodeShape{255, 1}));
  EXPECT_EQ(to_string(CodeShape{12, 3}), "12+3");
  for (const char* text : {"", "+", "6", "6+", "+2", "0+1", "1+0", "-1+2", "6+2+1", " 6+2", "6+ 2",
                           "06+2", "6+02", "255+2", "99999999999999999999+1", "x+y", "6-2"}) {
    EXPECT_THROWS_WITH(UserError, "checkpoint.erasure: '",
                       parse_code_shape(text, "checkpoint.erasure"));
    EXPECT_THROWS_WITH(UserError, "K+M, such as 6+2", parse_code_shape(text, "checkpoint.erasure"));
  }
}

TEST(CodeShape, ExplicitGroupsMustDivideTheNodes) {
  EXPECT_EQ(code_groups("2+1", 6, "f"), (std::vector<CodeGroup>{{0, {2, 1}}, {3, {2, 1}}}));
  EXPECT_TRUE(code_groups("none", 5, "f").empty());
  EXPECT_THROWS_WITH(UserError,
                     "f: 6+2 makes groups of 8 nodes, and the job has 4; allowed here are K+M with "
                     "K + M = 2 or 4, auto and none",
                     code_groups("6+2", 4, "f"));
  EXPECT_THROWS_WITH(UserError, "K + M = 2, 3, 4, 6 or 12, auto", code_groups("4+1", 12, "f"));
  EXPECT_THROWS_WITH(UserError, "the job has 1; allowed here are auto and none",
                     code_groups("1+1", 1, "f"));
  EXPECT_THROWS_WITH(UserError, "K + M = 7, auto", code_groups("1+1", 7, "f"));
}

TEST(CodeShape, AutomaticGroupsCoverAllNodesOnce) {
  EXPECT_TRUE(code_groups("auto", 1, "f").empty());
  EXPECT_EQ(code_groups("auto", 2, "f"), (std::vector<CodeGroup>{{0, {1, 1}}}));
  EXPECT_EQ(code_groups("auto", 3, "f"), (std::vector<CodeGroup>{{0, {2, 1}}}));
  EXPECT_EQ(code_groups("auto", 4, "f"), (std::vector<CodeGroup>{{0, {2, 2}}}));
  EXPECT_EQ(code_groups("auto", 8, "f"), (std::vector<CodeGroup>{{0, {6, 2}}}));
  EXPECT_EQ(code_groups("auto", 9, "f"), (std::vector<CodeGroup>{{0, {3, 2}}, {5, {2, 2}}}));
  for (int nodes = 4; nodes <= 300; ++nodes) {
    const auto groups = code_groups("auto", nodes, "f");
    int next = 0;
    for (const CodeGroup& group : groups) {
      EXPECT_EQ(group.first_node, next);
      EXPECT_EQ(group.shape.parity, 2);
      EXPECT_TRUE(group.shape.num_nodes() >= 4 && group.shape.num_nodes() <= 8) << nodes;
      next += group.shape.num_nodes();
    }
    EXPECT_EQ(next, nodes);
    EXPECT_EQ(find_group(groups, nodes - 1), &groups.back());
    EXPECT_EQ(find_group(groups, nodes), nullptr);
  }
}

TEST(CodeShape, SurvivalProbabilityIsThatOfCountingAllSets) {
  const auto expect = [](std::string_view code, int nodes, int lost, double value) {
    const double found = survival_probability(code_groups(code, nodes, "f"), lost);
    EXPECT_TRUE(found >= value - 5e-4 && found <= value + 5e-4) << code << ' ' << found;
  };
  // 1 - (N/m) C(N-m, f-m) / C(N, f) for groups of m = 2 replicas.
  expect("1+1", 16, 2, 0.9333);
  expect("1+1", 16, 3, 0.8);
  expect("6+2", 8, 3, 0.0);
  EXPECT_EQ(survival_probability(code_groups("6+2", 8, "f"), 0), 1.0);
  EXPECT_EQ(survival_probability({}, 0), 1.0);

  // Every set of nodes of 3+2 and 2+2, counted.
  const auto groups = code_groups("auto", 9, "f");
  std::vector<int> survived(10, 0), all(10, 0);
  for (unsigned set = 0; set < 512; ++set) {
    const int lost = std::popcount(set);
    const bool safe = std::popcount(set & 31u) <= 2 && std::popcount(set >> 5) <= 2;
    survived[static_cast<std::size_t>(lost)] += safe ? 1 : 0;
    ++all[static_cast<std::size_t>(lost)];
  }
  for (int lost = 0; lost <= 9; ++lost) {
    const auto i = static_cast<std::size_t>(lost);
    EXPECT_DOUBLE_EQ(survival_probability(groups, lost), static_cast<double>(survived[i]) / all[i]);
  }
}

}  // namespace
}  // namespace thimble
