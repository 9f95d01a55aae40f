// What a compressor's files say, and what is wrong with them.
#include <gtest/gtest.h>

#include "compress/kvc_file.h"
#include "tests/models/adapted_model.h"
#include "train/compressor_parts.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

const fs::path kHeads = "tests/fixtures/compressors/locret";

TEST(KvcFiles, TheHashIsTheOneThatOthersCompute) {
  const Transformer model(load_model_config(kLlama3 / "config.json"));
  const KvcConfig config = load_kvc_config(kHeads);
  const KvcBase base = kvc_base(model.config(), kLlama3);
  EXPECT_EQ(base, config.base);
  check_base(config, base, kHeads, false);
  KvcBase other = base;
  other.weights_sha256[3] = other.weights_sha256[3] == 'a' ? 'b' : 'a';
  check_base(config, other, kHeads, true);
  EXPECT_THROW(check_base(config, other, kHeads, false), UserError);
  other.layers = 3;
  EXPECT_THROW(check_base(config, other, kHeads, true), UserError);
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}

TEST(KvcFiles, WhatIsWrongIsNamed) {
  const std::string good = read_text_file(kHeads / kKvcConfigName, kMiB);
  const auto expect = [&](const std::string& from, const std::string& to, const std::string& part) {
    std::string text = good;
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    const std::string message = message_of([&] { parse_kvc_config(text, "kvc_config.json"); });
    EXPECT_NE(message.find(part), std::string::npos) << to << ": " << message;
  };
  expect("\"locret\"", "\"locrat\"", "stages[0].type = 'locrat': allowed locret");
  expect("\"per_head\": 9", "\"per_head\": 0", "budgets.per_head = 0; allowed a number above 0");
  expect("\"per_head\": 9", "\"per_head\": 2.5", "budgets.per_head = 2.5; allowed a share");
  expect("\"recent\": 3", "\"recent\": 0", "cache.recent = 0; allowed an integer from 1");
  expect("\"sink\": 1", "\"sink\": -1", "cache.sink = -1");
  expect("\"width\": 6", "\"width\": \"6\"", "stages[0].params.width = \"6\"; allowed an integer");
  expect("\"post\"", "\"middle\"", "cache.rope_stage = \"middle\"; allowed post, pre");
  expect("\"n_layers\"", "\"layers\"", "base.n_layers is missing");
  expect("\"half\"", "\"interleaved\"", "base.rope_layout");
  expect("\"weights_sha256\": \"", "\"weights_sha256\": \"x", "64 hexadecimal digits");
  expect("\"stages\": [", "\"stages\": [1, ", "stages = [1,");
  expect("{", "", "not JSON");
  KvcConfig config = parse_kvc_config(good, "kvc_config.json");
  config.compressor.width = 5;
  const auto arena = Arena::make_cpu(kMiB);
  const Transformer model(load_model_config(kLlama3 / "config.json"));
  const BackboneShape shape = backbone_shape(model.config());
  const auto load = [&] {
    static_cast<void>(load_heads(*arena, config, shape, kHeads, DType::kF32));
  };
  EXPECT_NE(message_of(load).find("layers.0.locret.fc1.weight is [6, 64]; allowed [5, 64]"),
            std::string::npos)
      << message_of(load);
}

}  // namespace
}  // namespace thimble
