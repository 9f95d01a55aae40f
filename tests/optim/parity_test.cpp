// Twenty steps beside the reference packages (tests/fixtures/make_optimizer_fixtures.py).
#include <nlohmann/json.hpp>

#include "core/io/file.h"
#include "optim/adafactor.h"
#include "optim/adamw.h"
#include "optim/apollo.h"
#include "optim/galore.h"
#include "optim/momentum.h"
#include "optim/muon.h"
#include "tests/core/expect_close.h"
#include "tests/optim/one_matrix.h"

namespace thimble {
namespace {

const nlohmann::json& fixtures() {
  static const nlohmann::json kAll =
      nlohmann::json::parse(read_text_file("tests/fixtures/optimizers.json", 1 << 24));
  return kAll;
}

ParamInfo matrix_of(const nlohmann::json& fixture) {
  return {.name = "model.layers.0.mlp.up_proj.weight",
          .shape = Shape{fixture["shape"][0].get<std::int64_t>(),
                         fixture["shape"][1].get<std::int64_t>()}};
}

void expect_parity(const std::string& name, const Optimizer& optimizer, double tolerance) {
  const nlohmann::json& fixture = fixtures().at(name);
  OneMatrix matrix(optimizer, matrix_of(fixture));
  for (int step = 1; step <= 20; ++step) matrix.step(step, 0.01);
  expect_close(matrix.weights(), fixture["last"].get<std::vector<double>>(), tolerance,
               name.c_str());
}

class OptimizerParity : public testing::TestWithParam<const char*> {
 protected:
  std::string named(const std::string& optimizer) { return optimizer + "_" + GetParam(); }
};

TEST_P(OptimizerParity, TorchAdamW) {
  expect_parity(named("adamw"), AdamW(AdamOptions{}), 1e-6);
}

TEST_P(OptimizerParity, TorchSgd) {
  expect_parity(named("sgd"), Sgd({.momentum = 0.9}), 1e-6);
}

TEST_P(OptimizerParity, TorchAdafactor) {
  expect_parity(named("adafactor"), Adafactor(AdafactorOptions{}), 1e-5);
}

// PyTorch iterates in bf16.
TEST_P(OptimizerParity, TorchMuon) {
  expect_parity(named("muon"), Muon(MuonOptions{}), 1e-2);
}

TEST_P(OptimizerParity, GaloreTorch) {
  GaloreOptions o{.rank = 3, .exact = true, .stagger = false, .projector = ProjectorFormat::kF32};
  o.adam.beta2 = 0.999;
  o.adam.eps = 1e-6;
  expect_parity(named("galore"), Galore(o), 1e-4);
}

ApolloOptions with_projection_of(const std::string& name) {
  ApolloOptions o;
  o.adam.beta2 = 0.999;
  o.projection = [values = fixtures().at(name)["projection"].get<std::vector<float>>()](
                     const UpdateArgs& args, const LowRankShape& shape, std::int64_t) {
    const Tensor p = Tensor::empty(*args.arena, MemoryTag::kWorkspace, DType::kF32,
                                   Shape{shape.width, shape.rank}, "projection");
    EXPECT_EQ(static_cast<std::size_t>(p.numel()), values.size());
    std::copy(values.begin(), values.end(), p.data<float>());
    return p;
  };
  return o;
}

TEST_P(OptimizerParity, ApolloTorch) {
  ApolloOptions o = with_projection_of(named("apollo"));
  o.rank = 3;
  expect_parity(named("apollo"), Apollo(o), 1e-5);
}

TEST_P(OptimizerParity, ApolloTorchMini) {
  ApolloOptions o = with_projection_of(named("apollo_mini"));
  o.per_tensor = true;
  o.scale = 128;
  expect_parity(named("apollo_mini"), Apollo(o), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Shapes, OptimizerParity, testing::Values("tall", "wide"));

TEST(OptimizerParity8Bit, BitsAndBytes) {
  AdamOptions o;
  o.state = StateFormat::k8Bit;
  expect_parity("adamw_8bit", AdamW(o), 2e-4);
}

TEST(OptimizerParity8Bit, CodesAreTheirs) {
  const auto codes =
      nlohmann::json::parse(read_text_file("tests/fixtures/codes_8bit.json", 1 << 20));
  for (const bool is_signed : {true, false}) {
    const auto want = codes[is_signed ? "signed" : "unsigned"].get<std::vector<double>>();
    const auto& got = code_values(is_signed);
    expect_close({got.begin(), got.end()}, want, 1e-7, "codes");
  }
  EXPECT_EQ(code_values(true)[127], 0.0f);
  EXPECT_EQ(code_values(false)[0], 0.0f);
  EXPECT_NEAR(code_values(true)[0], -0.99297, 1e-5);
  EXPECT_NEAR(code_values(true)[128], 5.5e-7, 1e-12);
  EXPECT_NEAR(code_values(false)[1], 3.25e-7, 1e-12);
}

}  // namespace
}  // namespace thimble
