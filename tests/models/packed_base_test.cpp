// Models in few bits: the bits are those of bitsandbytes, and adapters are trained beside them.
#include "train/packed_base.h"

#include <gtest/gtest.h>

#include "tests/models/adapted_model.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

// The same beside a packed model.
struct Packed {
  std::unique_ptr<Arena> arena = Arena::make_cpu(256 * kMiB);
  Transformer model;
  PackedMatrices matrices;
  AdamW optimizer{AdamOptions{}};
  TrainEngine engine;

  Packed(const fs::path& base, const AdapterConfig& config, const AdapterStart& start)
      : model(load_model_config(base / "config.json"), config),
        matrices(*arena, *config.base, model.packed()),
        engine(*arena, model, optimizer,
               {.dtype = DType::kF32, .grad_dtype = DType::kF32, .seq_len = 19}) {
    model.set_packed(matrices);
    AdapterSource source(*arena, model, open_base(*arena, base), start);
    load_packed(*arena, matrices, source);
    engine.load(source);
    arena->set_poison(true);
  }
};

// Packed, the model is that of the values that are packed; what is trained is near what it would
// be.
TEST(Adapters, BesideAPackedModel) {
  const SafetensorsFile expected =
      SafetensorsFile::open(kAdapters / "lora" / "expected.safetensors");
  const Batch batch = fixture_batch(expected);
  for (const auto& [format, most] :
       {std::pair(PackedFormat::kInt8, 0.05), std::pair(PackedFormat::kNf4, 0.6)}) {
    AdapterConfig config = open_adapter_config(kAdapters / "lora").adapter;
    config.base = format;
    const AdapterStart start{.directory = kAdapters / "lora"};
    Packed packed(kLlama3, config, start);
    const Tensor logits = logits_of(*packed.arena, packed.model, packed.engine.store(), batch);
    const double error = max_relative(logits.data<float>(), read_floats(expected, "logits"));
    EXPECT_LE(error, most);
    EXPECT_GT(error, 1e-4);
    const StepResult before = packed.engine.accumulate(std::span(&batch, 1));
    packed.engine.release_grads();
    double loss = 0;
    for (int step = 1; step <= 20; ++step)
      loss = packed.engine.step(std::span(&batch, 1), step, 1e-2).loss;
    EXPECT_LT(loss, 0.8 * before.loss);
  }
}

std::vector<std::uint8_t> read_bytes(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr) throw LogicError("fixture has no " + name);
  std::vector<std::uint8_t> values(static_cast<std::size_t>(entry->bytes));
  file.read(*entry, 0, std::as_writable_bytes(std::span(values)));
  return values;
}

// One matrix of a file, whose values are those of a parameter.
class OneMatrix final : public TensorSource {
 public:
  OneMatrix(const SafetensorsFile& file, std::string name) : file_(file), name_(std::move(name)) {}
  void read(const ParamInfo& info, Slice slice, const Tensor& dst) override {
    const std::vector<float> values = read_floats(file_, name_);
    const std::int64_t width = info.storage_shape()[1];
    for (std::int64_t r = slice.begin; r < slice.end; ++r) {
      for (std::int64_t c = 0; c < width; ++c) {
        const std::int64_t i = info.transposed() ? c * info.shape[1] + r : r * width + c;
        dst.data<float>()[(r - slice.begin) * width + c] = values[static_cast<std::size_t>(i)];
      }
    }
  }

 private:
  const SafetensorsFile& file_;
  std::string name_;
};

// Packed as bitsandbytes packs: codes, codes of scales and what these are scaled by.
TEST(Adapters, Nf4IsThatOfBitsandbytes) {
  const SafetensorsFile file = SafetensorsFile::open("tests/fixtures/nf4.safetensors");
  for (const std::string name : {"tall", "wide", "odd", "long"}) {
    const auto arena = Arena::make_cpu(16 * kMiB);
    const SafetensorsEntry* entry = file.find(name + ".weight");
    const PackedMatrices matrices(
        *arena, PackedFormat::kNf4,
        {{.name = name, .shape = Shape{entry->shape[0], entry->shape[1]}}});
    OneMatrix source(file, name + ".weight");
    load_packed(*arena, matrices, source);
    const ops::PackedValues& got = matrices.at(0).values;
    const auto bytes = [](const Tensor& t) {
      const auto* data = t.data<std::uint8_t>();
      return std::vector<std::uint8_t>(data, data + t.numel());
    };
    EXPECT_EQ(bytes(got.codes), read_bytes(file, name + ".codes")) << name;
    EXPECT_EQ(bytes(got.scales), read_bytes(file, name + ".scales")) << name;
    const std::vector<float> second = read_floats(file, name + ".second");
    for (std::size_t i = 0; i < second.size(); ++i)
      EXPECT_NEAR(got.second.data<float>()[i], second[i], 1e-6f * second[i]) << name;
    EXPECT_NEAR(got.second.data<float>()[second.size()], read_floats(file, name + ".mean")[0],
                1e-7);
    const Tensor back =
        Tensor::empty(*arena, MemoryTag::kIo, DType::kF32, Shape{entry->shape[0], entry->shape[1]});
    ops::unpack(back, got, {});
    EXPECT_LE(max_relative(back.data<float>(), read_floats(file, name + ".values")), 1e-6) << name;
  }
}

}  // namespace
}  // namespace thimble
