// Random configurations of every family against the logits of transformers, as loaded and again
// after an export. scripts/prove_configs makes them, and proves many more.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/io/safetensors.h"
#include "core/nn/param_store.h"
#include "models/decoder.h"
#include "models/hf_export.h"
#include "models/transformer.h"
#include "models/weight_sources.h"
#include "tests/io/temp_dir.h"
#include "train/weight_loading.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

const fs::path kCases = "tests/fixtures/configs";

std::vector<std::string> cases() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kCases))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

template <typename T>
std::vector<T> read_values(const SafetensorsFile& file, const char* name) {
  const SafetensorsEntry* entry = file.find(name);
  std::vector<T> values(static_cast<std::size_t>(entry->bytes) / sizeof(T));
  file.read(*entry, 0, std::as_writable_bytes(std::span(values)));
  return values;
}

void ignore(const std::string&) {}

// A directory loaded in f32; `logits` are those after the last of some ids.
struct Loaded {
  explicit Loaded(const fs::path& directory) : model(load_hf_config(directory, ignore)) {
    HfSource source(*arena, directory, model.params(), ignore);
    load_weights(*arena, model, store, source);
  }
  std::vector<float> logits(std::span<const std::int32_t> ids) {
    Decoder decoder(*arena, model, store, DType::kF32, static_cast<std::int64_t>(ids.size()));
    return decoder.feed(ids);
  }
  std::unique_ptr<Arena> arena = Arena::make_cpu(kMiB * 64);
  Transformer model;
  ResidentParamStore store{*arena, model.params(), DType::kF32, false};
};

class ConfigParity : public ::testing::TestWithParam<std::string> {};

TEST_P(ConfigParity, LogitsAsLoadedAndAfterExport) {
  const SafetensorsFile expected =
      SafetensorsFile::open(kCases / GetParam() / "expected.safetensors");
  const auto ids = read_values<std::int32_t>(expected, "input_ids");
  const auto want = read_values<float>(expected, "logits");
  Loaded loaded(kCases / GetParam());
  const std::vector<float> got = loaded.logits(ids);
  const std::size_t last = want.size() - got.size();
  float scale = 0, error = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    scale = std::max(scale, std::abs(want[last + i]));
    const float d = std::abs(got[i] - want[last + i]);
    if (!(d <= error)) error = d;  // NaN sticks
  }
  EXPECT_TRUE(error <= 1e-5f * scale) << error / scale;

  const testing::TempDir dir;
  export_hf(*loaded.arena, loaded.model, loaded.store,
            {.directory = dir / "out", .dtype = DType::kF32});
  Loaded again(dir / "out");
  EXPECT_TRUE(again.model.config() == loaded.model.config());
  EXPECT_EQ(again.logits(ids), got);
}

INSTANTIATE_TEST_SUITE_P(Cases, ConfigParity, ::testing::ValuesIn(cases()));

TEST(ConfigCases, AreThere) {
  EXPECT_GE(cases().size(), 12u);
}

}  // namespace
}  // namespace thimble
