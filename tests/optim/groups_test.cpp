// Which parameter goes to which optimizer, and what is refused.
#include "optim/groups.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <sstream>

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

// A registry's formula such as "2.03 L r + 0.53 s r + 32": a sum of products.
double evaluated(const std::string& formula, const std::map<std::string, double>& variables) {
  double sum = 0, product = 1;
  std::istringstream words(formula);
  for (std::string word; words >> word;) {
    if (word == "+") {
      sum += product;
      product = 1;
    } else {
      const auto variable = variables.find(word);
      product *= variable != variables.end() ? variable->second : std::stod(word);
    }
  }
  return sum + product;
}

TEST(RegistryTest, EveryOptimizerKeepsTheBytesOfItsFormula) {
  const ParamInfo info{.name = "w", .shape = Shape{1024, 512}};
  for (const OptimizerEntry& e : optimizer_entries()) {
    EXPECT_EQ(find_optimizer(e.name), &e);
    const auto optimizer = e.make({.name = e.name, .rank = 64, .density = 0.25});
    std::int64_t bytes = 0;
    for (const StateSlot& slot : optimizer->state_slots(info))
      bytes += slot.whole.numel() * dtype_size(slot.dtype);
    const double want = evaluated(e.state, {{"L", 1024}, {"s", 512}, {"r", 64}, {"density", 0.25}});
    // 2.03 stands for 2 + 8 / 256, and a few numbers per matrix or per row are left out.
    EXPECT_NEAR(static_cast<double>(bytes), want, 0.001 * want + 4.0 * 1024) << e.name;
  }
  EXPECT_EQ(find_optimizer("adam"), nullptr);
}

}  // namespace
}  // namespace thimble
