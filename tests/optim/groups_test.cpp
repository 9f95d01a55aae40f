// Which parameter goes to which optimizer, and what is refused.
#include "optim/groups.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/optim/one_matrix.h"

namespace thimble {
namespace {

using testing::HasSubstr;

ParamTable small_model() {
  ParamTable params;
  params.add(
      {.name = "model.embed_tokens.weight", .shape = Shape{31, 8}, .role = ParamRole::kEmbedding});
  params.add({.name = "model.layers.0.mlp.up_proj.weight", .shape = Shape{20, 8}});
  params.add({.name = "model.layers.1.mlp.up_proj.weight", .shape = Shape{20, 8}});
  params.add({.name = "model.norm.weight", .shape = Shape{8}, .role = ParamRole::kNorm});
  params.add({.name = "lm_head.weight", .shape = Shape{31, 8}, .role = ParamRole::kHead});
  return params;
}

GroupSettings group(const std::string& name, const std::string& match = "") {
  GroupSettings g{.label = match.empty() ? "optimizer" : "optimizer.groups[0]", .match = match};
  g.optimizer.name = name;
  g.optimizer.rank = 4;
  g.lr = 0.1;
  return g;
}

std::string error_of(const std::vector<GroupSettings>& groups, const GroupSettings& main) {
  try {
    const OptimizerGroups made(small_model(), groups, main, group("adamw"));
  } catch (const UserError& e) {
    return e.what();
  }
  return "no error";
}

std::string taken(const OptimizerGroups& groups) {
  std::string text;
  for (const GroupSummary& g : groups.summary())
    text += fmt::format("{} {} {} {}; ", g.label, g.name, g.tensors, g.elements);
  return text;
}

TEST(GroupsTest, FirstMatchThenRole) {
  const ParamTable params = small_model();
  EXPECT_EQ(taken({params, {}, group("lion"), group("adamw")}), "optimizer lion 5 824; ");
  GroupSettings fallback = group("adamw");
  fallback.label = "optimizer.fallback";
  EXPECT_EQ(taken({params, {}, group("apollo"), fallback}),
            "optimizer apollo 2 320; optimizer.fallback adamw 3 504; ");
  EXPECT_EQ(taken({params, {}, group("scale"), fallback}),
            "optimizer scale 4 816; optimizer.fallback adamw 1 8; ");
  EXPECT_EQ(taken({params,
                   {group("galore", ".*layers.0.*"), group("muon", ".*layers.*")},
                   group("apollo"),
                   fallback}),
            "optimizer.groups[0] galore 1 160; optimizer.groups[0] muon 1 160; optimizer.fallback "
            "adamw 3 504; ");
}

TEST(GroupsTest, Mistakes) {
  EXPECT_THAT(error_of({}, group("adam")), HasSubstr("optimizer.name = \"adam\": allowed adamw, "));
  EXPECT_THAT(error_of({group("apollo", "(")}, group("adamw")),
              HasSubstr("optimizer.groups[0].match: pattern '(' does not compile at byte 1"));
  EXPECT_THAT(error_of({group("apollo", std::string(50'000, '('))}, group("adamw")),
              HasSubstr("optimizer.groups[0].match: pattern '((((("));
  EXPECT_THAT(error_of({group("apollo", "layers")}, group("adamw")),
              HasSubstr("matches no tensor"));
  EXPECT_THAT(
      error_of({group("apollo", ".*layers.*"), group("muon", ".*layers.*")}, group("adamw")),
      HasSubstr("that an earlier group has not taken"));
  EXPECT_THAT(error_of({group("apollo", ".*norm.*")}, group("adamw")),
              HasSubstr("apollo needs matrices, and model.norm.weight has one dimension"));
  GroupSettings large = group("galore");
  large.optimizer.rank = 9;
  EXPECT_THAT(error_of({}, large),
              HasSubstr("optimizer.rank = 9: model.layers.0.mlp.up_proj.weight "
                        "is 20 x 8; allowed 1 to 8"));
  GroupSettings type = group("apollo");
  type.optimizer.scale_type = "spectral";
  EXPECT_THAT(error_of({}, type), HasSubstr("allowed \"tensor\", \"channel\""));
}

TEST(GroupsTest, LearningRatesKeepTheirProportion) {
  ParamTable params;
  params.add({.name = "w", .shape = Shape{6, 4}});
  GroupSettings slow = group("sgd", "w");
  slow.lr = 0.01;
  slow.optimizer.momentum = 0;
  const OptimizerGroups groups(params, {slow}, group("adamw"), group("adamw"));
  OneMatrix one(groups, params.info(ParamId{0}));
  const std::vector<double> first = one.weights();
  one.step(1, 0.05, [](std::int64_t) { return 1.0f; });  // half of the main group's peak
  const double decay = 1 - 0.005 * 0.1;
  for (std::size_t i = 0; i < first.size(); ++i)
    EXPECT_NEAR(one.weights()[i], first[i] * decay - 0.005, 1e-6);
}

TEST(RegistryTest, EveryOptimizerSaysWhatItKeeps) {
  const ParamInfo info{.name = "w", .shape = Shape{96, 64}};
  for (const OptimizerEntry& e : optimizer_entries()) {
    EXPECT_EQ(find_optimizer(e.name), &e);
    OptimizerSettings settings{.name = e.name, .rank = 16};
    const auto optimizer = e.make(settings);
    std::int64_t bytes = 0;
    for (const StateSlot& slot : optimizer->state_slots(info))
      bytes += slot.whole.numel() * dtype_size(slot.dtype);
    // The registry's formula, evaluated.
    const double L = 96, s = 64, r = 16;
    const std::map<std::string, double> want{
        {"adamw", 8 * L * s},
        {"adamw_8bit", 2 * L * s + 8 * L * s / 256},
        {"adam_mini", 4 * L * s + 4 * L},
        {"adafactor", 4 * (L + s)},
        {"apollo", 8 * L * r + 4},
        {"apollo_mini", 8 * L + 4},
        {"fira", 8 * L * r + 2 * s * r + 4},
        {"frugal", 8 * L * s * 0.25},
        {"galore", 8 * L * r + 2 * s * r},
        {"galore_8bit", 8 * L * r + 2 * s * r},
        {"q_apollo", 8 * L * r + 4},
        {"q_apollo_mini", 8 * L + 4},
        {"natural_galore", 8 * L * r + 2 * s * r + 40 * L * r + 4 * 21 * 20},
        {"q_galore", 8 * L * r + s * r / 2 + 8 * s * r / 256 + 32},
        {"ldadam", 8 * L * r + 4 * s * r + 4 * L * s},
        {"badam", 8 * L * s},
        {"lisa", 8 * L * s},
        {"badam", 8 * L * s},
        {"lisa", 8 * L * s},
        {"lion", 4 * L * s},
        {"muon", 4 * L * s},
        {"scale", 0},
        {"sgd", 4 * L * s}};
    EXPECT_EQ(static_cast<double>(bytes), want.at(e.name)) << e.name;
  }
  EXPECT_EQ(find_optimizer("adam"), nullptr);
}

}  // namespace
}  // namespace thimble
