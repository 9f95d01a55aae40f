// Checkpoints that other frameworks wrote (tests/fixtures/checkpoints): every value of them, and
// what is refused.
#include <gtest/gtest.h>

#include <fstream>

#include "core/base/error.h"
#include "core/io/file.h"
#include "core/io/pickle_writer.h"
#include "core/io/zip_archive.h"
#include "launcher/convert/conversion.h"
#include "launcher/convert/open_image.h"
#include "tests/io/temp_dir.h"
#include "tests/launcher/image_values.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;
using testing::distance;
using testing::expect_same;
using testing::kCheckpoints;
using testing::MemoryDir;
using testing::read_bytes;
using testing::values;
using testing::write_bytes;

std::string refusal(const fs::path& path) {
  return testing::message_of<UserError>([&] {
    const CheckpointImage image = open_image(path);
    for (const auto& [name, param] : image.params) values(param.best());
  });
}

void expect_refused(const fs::path& path, const std::string& why) {
  EXPECT_NE(refusal(path).find(why), std::string::npos) << refusal(path);
}

class ConvertImageTest : public ::testing::Test {
 protected:
  // A copy of a fixture that a test may change.
  fs::path copy(const std::string& name) {
    const fs::path to = directory_ / name;
    fs::copy(kCheckpoints / name, to, fs::copy_options::recursive);
    return to;
  }
  MemoryDir directory_;
};

TEST_F(ConvertImageTest, ZeroIsWhatDeepSpeedItselfMakesOfIt) {
  const CheckpointImage universal = open_image(kCheckpoints / "universal");
  EXPECT_EQ(universal.params.size(), 20u);
  EXPECT_EQ(universal.step, 3);
  EXPECT_EQ(universal.aliases.at("lm_head.weight"), "model.embed_tokens.weight");
  expect_same(open_image(kCheckpoints / "zero1"), universal, 0);
  expect_same(open_image(kCheckpoints / "zero2"), universal, 0);
  // Another order of sums, and then three steps.
  expect_same(open_image(kCheckpoints / "zero3"), universal, 1e-5f);
  const CheckpointImage zero = open_image(kCheckpoints / "zero1" / "global_step3");
  EXPECT_EQ(zero.kind, "checkpoint of DeepSpeed's ZeRO-1, 2 ranks");
  ASSERT_TRUE(zero.adam);
  EXPECT_EQ(zero.adam->lr, 0.01);
  EXPECT_EQ(zero.adam->beta2, 0.95);
  EXPECT_EQ(zero.adam->weight_decay, 0.1);
}

TEST_F(ConvertImageTest, DcpIsWhatOneProcessSaves) {
  const CheckpointImage one = open_image(kCheckpoints / "torch" / "checkpoint.pt");
  EXPECT_EQ(one.params.size(), 21u);
  expect_same(open_image(kCheckpoints / "fsdp2"), one, 1e-5f);
  ASSERT_TRUE(one.adam);
  EXPECT_EQ(one.adam->beta2, 0.95);
}

TEST_F(ConvertImageTest, ShardsOfTorchAreWhatTransformersSaves) {
  const CheckpointImage shards = open_image(kCheckpoints / "bin");
  const CheckpointImage whole = open_image(kCheckpoints / "bin" / "expected");
  ASSERT_EQ(shards.params.size(), whole.params.size());
  EXPECT_EQ(shards.dtype, DType::kBF16);
  for (const auto& [name, param] : whole.params)
    EXPECT_EQ(distance(param.weight, shards.params.at(name).weight), 0) << name;
}

TEST_F(ConvertImageTest, MegatronsPartsAreWhatTransformersSaves) {
  const CheckpointImage whole = open_image(kCheckpoints / "megatron" / "expected");
  const CheckpointImage parts = open_image(kCheckpoints / "megatron");
  EXPECT_EQ(parts.step, 7);
  EXPECT_EQ(parts.dtype, DType::kBF16);
  ASSERT_EQ(parts.params.size(), whole.params.size());
  // It does not say how many tokens there are, so its tables keep their padding until a model says
  // it.
  EXPECT_EQ(parts.params.at("lm_head.weight").weight.shape[0], 512);
  CheckpointImage of_model = open_image(kCheckpoints / "megatron" / "iter_0000007");
  of_model.origin = whole.origin;
  const CheckpointImage image =
      output_image(std::move(of_model), {.target = ConversionTarget::kHuggingFace});
  for (const auto& [name, param] : whole.params)
    EXPECT_EQ(distance(param.weight, image.params.at(name).weight), 0) << name;
  // To any other number of ranks, and back.
  int number = 0;
  for (const auto& [tensor, pipeline] : {std::pair{1, 1}, {1, 4}, {2, 1}, {2, 2}}) {
    const fs::path place = directory_ / std::to_string(number++);
    write_image(image, ConversionTarget::kMegatron, place,
                {.window_bytes = 100, .tensor_parallel = tensor, .pipeline_parallel = pipeline});
    verify_image(image, place, {.window_bytes = 300});
  }
  const auto cut = [&](std::int64_t tensor, std::int64_t pipeline) {
    write_image(image, ConversionTarget::kMegatron, directory_ / "no",
                {.tensor_parallel = tensor, .pipeline_parallel = pipeline});
  };
  EXPECT_THROWS_WITH(UserError, "--tensor-parallel 4", cut(4, 1));
  EXPECT_THROWS_WITH(UserError, "--pipeline-parallel 3", cut(1, 3));
}

TEST_F(ConvertImageTest, OtherModelsOfMegatronAreRefused) {
  const fs::path megatron = copy("megatron");
  fs::remove_all(megatron / "iter_0000007" / "mp_rank_01_001");
  expect_refused(megatron, "missing: mp_rank_01_001");
  write_bytes(megatron / "latest_checkpointed_iteration.txt", "../x");
  expect_refused(megatron, "allowed a number or release");
  write_bytes(megatron / "latest_checkpointed_iteration.txt", "8");
  expect_refused(megatron, "iter_0000008");
}

TEST_F(ConvertImageTest, VerifyFindsAnotherValue) {
  const CheckpointImage image =
      output_image(open_image(kCheckpoints / "zero1"), {.target = ConversionTarget::kTorch});
  const fs::path place = directory_ / "out.pt";
  write_image(image, ConversionTarget::kTorch, place, {});
  const ZipArchive zip =
      ZipArchive::open(std::make_shared<const File>(File::open_read(place)),
                       {0, static_cast<std::int64_t>(fs::file_size(place))}, "x");
  std::string bytes = read_bytes(place);
  char& flipped = bytes[static_cast<std::size_t>(zip.find("archive/data/7")->offset)];
  flipped = static_cast<char>(flipped ^ 1);
  write_bytes(place, bytes);
  EXPECT_THROW(verify_image(image, place, {.threads = 2}), SystemError);
}

TEST_F(ConvertImageTest, PrecisionIsLostOnlyIfAllowed) {
  const auto bf16 = [](bool allowed) {
    return output_image(
        open_image(kCheckpoints / "torch" / "checkpoint.pt"),
        {.target = ConversionTarget::kHuggingFace, .dtype = DType::kBF16, .allow_cast = allowed});
  };
  EXPECT_THROWS_WITH(UserError, "--allow-cast", bf16(false));
  EXPECT_EQ(bf16(true).params.begin()->second.weight.dtype, DType::kBF16);
  EXPECT_THROWS_WITH(UserError, "holds weights alone",
                     output_image(open_image(kCheckpoints / "zero1"),
                                  {.target = ConversionTarget::kThimble, .weights_only = true}));
  EXPECT_THROWS_WITH(
      UserError, "no optimizer state",
      output_image(open_image(kCheckpoints / "bin"), {.target = ConversionTarget::kUniversal}));
}

TEST_F(ConvertImageTest, MissingFilesAreNamed) {
  const fs::path zero = copy("zero1");
  fs::remove(zero / "global_step3" / "zero_pp_rank_1_mp_rank_00_optim_states.pt");
  expect_refused(zero, "missing of: zero_pp_rank_1");
  const fs::path dcp = copy("fsdp2");
  fs::remove(dcp / "__1_0.distcp");
  expect_refused(dcp, "files are missing: __1_0.distcp");
  const fs::path bin = copy("bin");
  fs::remove(bin / "pytorch_model-00002-of-00002.bin");
  expect_refused(bin, "files are missing: pytorch_model-00002-of-00002.bin");
  const fs::path universal = copy("universal");
  fs::remove(universal / "global_step3_universal/zero/model.norm.weight/exp_avg.pt");
  EXPECT_FALSE(open_image(universal).has_state());
}

TEST_F(ConvertImageTest, MixedFoldersAreRefused) {
  const fs::path zero = copy("zero1");
  write_bytes(zero / ".metadata", "x");
  expect_refused(zero, "two kinds of checkpoint");
  fs::remove(zero / ".metadata");
  fs::copy(zero / "global_step3" / "mp_rank_00_model_states.pt",
           zero / "global_step3" / "zero_pp_rank_0_mp_rank_00_model_states.pt");
  expect_refused(zero, "two checkpoints in one folder");
}

TEST_F(ConvertImageTest, NamesDoNotLeaveTheFolder) {
  const fs::path zero = copy("zero1");
  for (const char* tag : {"../zero1", "/etc", "..", ""}) {
    write_bytes(zero / "latest", tag);
    expect_refused(zero, "refused");
  }
  // The same length, so that the pickle stays whole.
  const fs::path dcp = copy("fsdp2");
  std::string metadata = read_bytes(dcp / ".metadata");
  metadata.replace(metadata.find("__0_0.distcp"), 12, "../0_0distcp");
  write_bytes(dcp / ".metadata", metadata);
  expect_refused(dcp, "not beside it");
}

TEST_F(ConvertImageTest, TruncatedFilesAreRefusedAtEveryLength) {
  const std::string whole = read_bytes(kCheckpoints / "bin" / "pytorch_model-00002-of-00002.bin");
  const fs::path file = directory_ / "cut.pt";
  for (std::size_t bytes = 0; bytes < whole.size(); bytes += bytes < 200 ? 1 : 37) {
    write_bytes(file, std::string_view(whole).substr(0, bytes));
    EXPECT_NE(refusal(file), "(nothing was thrown)") << bytes;
  }
  const fs::path dcp = copy("fsdp2");
  const std::string metadata = read_bytes(dcp / ".metadata");
  for (std::size_t bytes = 0; bytes < metadata.size(); bytes += 997) {
    write_bytes(dcp / ".metadata", std::string_view(metadata).substr(0, bytes));
    EXPECT_NE(refusal(dcp), "(nothing was thrown)") << bytes;
  }
}

TEST_F(ConvertImageTest, FlippedBytesNeverCrash) {
  const fs::path dcp = copy("fsdp2");
  const std::string metadata = read_bytes(dcp / ".metadata");
  for (std::size_t at = 0; at < metadata.size(); at += 211) {
    std::string bytes = metadata;
    bytes[at] = static_cast<char>(bytes[at] ^ 0x55);
    write_bytes(dcp / ".metadata", bytes);
    refusal(dcp);
  }
}

// A file of torch.save with one tensor, whose pickle a test makes up.
class MadeUpFile {
 public:
  PickleWriter pickle;

  // {"x": a tensor} of that storage, shape and strides.
  void tensor(const char* storage, std::int64_t offset, const Extents& shape,
              const Extents& strides) {
    pickle.begin_dict();
    pickle.text("x");
    pickle.global("torch._utils", "_rebuild_tensor_v2");
    pickle.begin_tuple();
    pickle.begin_tuple();
    pickle.text("storage");
    pickle.global("torch", storage);
    pickle.text("0");
    pickle.text("cpu");
    pickle.integer(4);
    pickle.end_tuple();
    pickle.persistent();
    pickle.integer(offset);
    pickle.integers(shape);
    pickle.integers(strides);
    pickle.end_tuple();
    pickle.call();
    pickle.end_dict();
  }
  void write(const fs::path& path) {
    File file = File::create(path);
    ZipWriter zip(file);
    zip.add("archive/data.pkl", pickle.finish());
    zip.add("archive/data/0", "0123456789abcdef");
    zip.finish();
  }
};

TEST_F(ConvertImageTest, TensorsMustLieInTheirStorage) {
  const fs::path path = directory_ / "made.pt";
  const auto made = [&](const char* storage, std::int64_t offset, const Extents& shape,
                        const Extents& strides) {
    MadeUpFile file;
    file.tensor(storage, offset, shape, strides);
    file.write(path);
    return path;
  };
  const std::int64_t huge = std::int64_t{1} << 40;
  expect_refused(made("FloatStorage", 0, {5}, {1}), "does not lie in its storage");
  expect_refused(made("FloatStorage", 1, {4}, {1}), "does not lie in its storage");
  expect_refused(made("FloatStorage", -1, {2}, {1}), "does not lie in its storage");
  expect_refused(made("FloatStorage", huge, {2}, {1}), "does not lie in its storage");
  expect_refused(made("FloatStorage", 0, {2}, {huge}), "does not lie in its storage");
  expect_refused(made("FloatStorage", 0, {2}, {-1}), "does not lie in its storage");
  expect_refused(made("FloatStorage", 0, {2}, {1, 1}), "does not lie in its storage");
  // An expanded tensor is a bomb: few bytes, many elements.
  expect_refused(made("FloatStorage", 0, {huge}, {0}), "does not lie in its storage");
  expect_refused(made("FloatStorage", 0, {huge, huge, huge}, {1, 1, 1}), "no array can have");
  expect_refused(made("FloatStorage", 0, {-1}, {1}), "no array can have");
  expect_refused(made("LongStorage", 0, {2}, {1}), "allowed float32");
  expect_refused(made("ComplexStorage", 0, {2}, {1}), "which is not read");
  EXPECT_EQ(refusal(made("FloatStorage", 0, {2, 2}, {1, 2})), "(nothing was thrown)");
  MadeUpFile attack;
  attack.pickle.global("os", "system");
  attack.pickle.begin_tuple();
  attack.pickle.text("touch /tmp/owned");
  attack.pickle.end_tuple();
  attack.pickle.call();
  attack.write(path);
  expect_refused(path, "os.system");
  write_bytes(path, "\x80\x02\x8a\x0al\xfc");
  expect_refused(path, "before version 1.6");
}

// Elements of pieces, whatever their cut.
TEST(StoredArray, EveryElementExactlyOnce) {
  MemoryDir directory;
  const fs::path path = directory / "data";
  std::vector<float> numbers(12);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i);
  write_bytes(path, {reinterpret_cast<const char*>(numbers.data()), numbers.size() * 4});
  const auto file = std::make_shared<const File>(File::open_read(path));
  const auto array = [&](const Extents& shape, std::vector<ArrayPiece> pieces) {
    for (ArrayPiece& piece : pieces) piece.file = file;
    return array_of_pieces("x", DType::kF32, shape, std::move(pieces));
  };
  // Two columns of one file part and one of another.
  const StoredArray boxes =
      array({4, 3}, {{.offset = 32, .begin = {0, 2}, .extent = {4, 1}, .strides = {1, 1}},
                     {.offset = 0, .begin = {0, 0}, .extent = {4, 2}, .strides = {2, 1}}});
  EXPECT_EQ(values(boxes, 1), (std::vector<float>{0, 1, 8, 2, 3, 9, 4, 5, 10, 6, 7, 11}));
  EXPECT_EQ(values(boxes, 1000), values(boxes, 1));
  const StoredArray flat =
      array({2, 6}, {{.offset = 20, .begin = {0}, .extent = {7}, .strides = {1}},
                     {.offset = 0, .begin = {7}, .extent = {5}, .strides = {1}}});
  EXPECT_EQ(values(flat, 1), (std::vector<float>{5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4}));
  const StoredArray turned =
      array({3, 4}, {{.offset = 0, .begin = {0, 0}, .extent = {3, 4}, .strides = {1, 3}}});
  EXPECT_EQ(values(turned, 1), (std::vector<float>{0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11}));
  EXPECT_EQ(values(turned, 1000), values(turned, 1));
  EXPECT_EQ(values(array({0, 3}, {})).size(), 0u);
  EXPECT_EQ(values(array({}, {{.offset = 8, .begin = {}, .extent = {}, .strides = {}}})),
            (std::vector<float>{2}));
  EXPECT_THROWS_WITH(UserError, "its parts have 3",
                     array({4}, {{.begin = {0}, .extent = {3}, .strides = {1}}}));
  EXPECT_THROWS_WITH(UserError, "does not lie in its shape",
                     array({4}, {{.begin = {2}, .extent = {3}, .strides = {1}}}));
  const StoredArray doubled = array({4}, {{.begin = {0}, .extent = {3}, .strides = {1}},
                                          {.begin = {2}, .extent = {1}, .strides = {1}}});
  EXPECT_THROWS_WITH(UserError, "stored twice", values(doubled));
  const StoredArray gap = array({5}, {{.begin = {0}, .extent = {2}, .strides = {1}},
                                      {.begin = {1}, .extent = {3}, .strides = {1}}});
  EXPECT_THROWS_WITH(UserError, "stored twice", values(gap));
}

TEST(ParameterName, WrappersAreTakenOff) {
  EXPECT_EQ(parameter_name("module.module.model.norm.weight"), "model.norm.weight");
  EXPECT_EQ(parameter_name("_orig_mod.model.layers.0._checkpoint_wrapped_module.mlp.weight"),
            "model.layers.0.mlp.weight");
  EXPECT_EQ(parameter_name("model.norm.weight"), "model.norm.weight");
}

}  // namespace
}  // namespace thimble
