// What a family is must survive every way in and out: a directory as transformers writes it, an
// export, decoding a token at a time, bf16, and training under every kind of recomputation.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "core/io/safetensors_model.h"
#include "core/nn/param_store.h"
#include "models/decoder.h"
#include "models/hf_export.h"
#include "models/weight_sources.h"
#include "optim/adamw.h"
#include "tests/io/temp_dir.h"
#include "train/train_engine.h"
#include "train/weight_loading.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

const fs::path kFamilies = "tests/fixtures/models";

void no_note(const std::string&) {}

template <typename T>
std::vector<T> values_in(const SafetensorsFile& file, const char* name) {
  const SafetensorsEntry* entry = file.find(name);
  std::vector<T> values(static_cast<std::size_t>(entry->bytes) / sizeof(T));
  file.read(*entry, 0, std::as_writable_bytes(std::span(values)));
  return values;
}

struct OfDirectory {
  explicit OfDirectory(const fs::path& directory, DType of_weights = DType::kF32)
      : dtype(of_weights),
        model(load_hf_config(directory, no_note)),
        store(*arena, model.params(), dtype, false) {
    HfSource source(*arena, directory, model.params(), no_note);
    load_weights(*arena, model, store, source);
  }
  // Logits of every position of one text, fed `step` tokens at a time; only the last ones of a
  // step are known, so the others are left out.
  std::vector<std::vector<float>> logits(std::span<const std::int32_t> ids, std::size_t step) {
    Decoder decoder(*arena, model, store, dtype, static_cast<std::int64_t>(ids.size()));
    std::vector<std::vector<float>> out;
    for (std::size_t at = 0; at < ids.size(); at += step)
      out.push_back(decoder.feed(ids.subspan(at, std::min(step, ids.size() - at))));
    return out;
  }
  DType dtype;
  std::unique_ptr<Arena> arena = Arena::make_cpu(kMiB * 64);
  Transformer model;
  ResidentParamStore store;
};

// The largest error against rows `step` apart, relative to the largest value; NaN sticks.
double worst_error(const std::vector<std::vector<float>>& got, const std::vector<float>& want,
                   std::size_t step, std::size_t rows) {
  const std::size_t vocab = got[0].size();
  double error = 0, scale = 0;
  for (std::size_t r = 0; r < got.size(); ++r) {
    const std::size_t row = std::min(rows, (r + 1) * step) - 1;
    for (std::size_t i = 0; i < vocab; ++i) {
      const double w = want[row * vocab + i], d = std::abs(got[r][i] - w);
      scale = std::max(scale, std::abs(w));
      if (!(d <= error)) error = d;
    }
  }
  return error / scale;
}

std::string bytes_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class FamilyTest : public ::testing::TestWithParam<std::string> {
 protected:
  const fs::path directory_ = kFamilies / GetParam();
  const SafetensorsFile expected_ = SafetensorsFile::open(directory_ / "expected.safetensors");
  const std::vector<std::int32_t> all_ = values_in<std::int32_t>(expected_, "input_ids");
  const std::span<const std::int32_t> ids_ = std::span(all_).first(all_.size() / 2);
  const std::vector<float> want_ = values_in<float>(expected_, "logits");
};

TEST_P(FamilyTest, DecodesATokenAtATime) {
  OfDirectory of(directory_);
  for (const std::size_t step : {1u, 5u, 19u})
    EXPECT_LE(worst_error(of.logits(ids_, step), want_, step, ids_.size()), 1e-5) << step;
  OfDirectory narrow(directory_, DType::kBF16);
  EXPECT_LE(worst_error(narrow.logits(ids_, 3), want_, 3, ids_.size()), 5e-2);
}

// An export holds the tensors that came in, under their names, and a configuration that means the
// same, with the configuration it came with or with one that is written anew.
TEST_P(FamilyTest, ComesOutAsItCameIn) {
  OfDirectory of(directory_);
  const testing::TempDir dir;
  for (const bool anew : {true, false}) {
    const fs::path out = dir / (anew ? "anew" : "kept");
    export_hf(*of.arena, of.model, of.store,
              {.directory = out,
               .dtype = DType::kF32,
               .source_config = anew ? "" : bytes_of(directory_ / "config.json")});
    if (!anew) {
      EXPECT_EQ(bytes_of(out / "config.json"), bytes_of(directory_ / "config.json"));
    }
    OfDirectory again(out);
    EXPECT_TRUE(again.model.config() == of.model.config());
    EXPECT_EQ(again.logits(ids_, ids_.size()), of.logits(ids_, ids_.size()));
    const SafetensorsModel before = SafetensorsModel::open(directory_),
                           after = SafetensorsModel::open(out);
    EXPECT_EQ(after.tensors().size(), before.tensors().size());
    for (const auto& [name, location] : before.tensors()) {
      const auto found = after.find(name);
      ASSERT_NE(found.entry, nullptr) << name;
      EXPECT_EQ(found.entry->shape, location.entry->shape) << name;
      std::vector<std::byte> a(static_cast<std::size_t>(location.entry->bytes)), b(a.size());
      location.file->read(*location.entry, 0, a);
      found.file->read(*found.entry, 0, b);
      EXPECT_TRUE(a == b) << name;
    }
  }
}

TEST_P(FamilyTest, CountsItsParameters) {
  OfDirectory of(directory_);
  EXPECT_EQ(of.model.config().num_parameters(), of.model.params().num_elements());
}

// Saved, recomputed in part or recomputed whole: the same bits; and the plan takes as much memory.
TEST_P(FamilyTest, RecomputationChangesNoBit) {
  std::vector<std::vector<double>> results;
  for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kFull}) {
    const auto train = [&](Arena& arena) {
      const Transformer model(load_hf_config(directory_, no_note));
      AdamW optimizer{AdamOptions{}};
      TrainEngine engine(arena, model, optimizer,
                         {.dtype = DType::kBF16,
                          .grad_dtype = DType::kBF16,
                          .recompute = recompute,
                          .max_grad_norm = 1.0,
                          .seq_len = 19});
      HfSource source(arena, directory_, model.params(), no_note);
      engine.load(source);
      Batch batch{.sequences = 2, .seq_len = 19, .tokens = all_, .targets = all_};
      batch.weights.assign(all_.size(), 1.0f);
      batch.segment_start.assign(all_.size(), 0);
      for (std::size_t i = 0; i < all_.size(); ++i)
        batch.positions.push_back(static_cast<std::int32_t>(i % 19));
      std::vector<double> losses;
      for (std::int64_t step = 1; step <= 3; ++step) {
        const StepResult r = engine.step(std::span(&batch, 1), step, 1e-3);
        losses.push_back(r.loss);
        losses.push_back(r.grad_norm);
      }
      return losses;
    };
    const auto arena = Arena::make_cpu(kMiB * 64), plan = Arena::make_planning();
    arena->set_poison(true);
    results.push_back(train(*arena));
    EXPECT_TRUE(std::isfinite(results.back().back()));
    EXPECT_EQ(results.back(), results.front());
    train(*plan);
    EXPECT_EQ(plan->peak().total_bytes, arena->peak().total_bytes);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyTest,
                         ::testing::Values("granite", "olmo2", "phi4", "phi4_mini", "gemma3",
                                           "gemma2"));

}  // namespace
}  // namespace thimble
