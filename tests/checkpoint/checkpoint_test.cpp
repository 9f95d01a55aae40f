#include <gtest/gtest.h>
#include <hdf5.h>

#include <algorithm>
#include <chrono>

#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/checkpoint_writer.h"
#include "core/base/error.h"
#include "tests/checkpoint/sample_checkpoint.h"

namespace thimble {
namespace {

using testing::holds_sample;
using testing::random_bytes;
using testing::sample_bytes;
using testing::sample_contents;
using testing::sample_tensors;
using testing::save_sample;
using testing::TempDir;

class CheckpointTest : public ::testing::TestWithParam<FileEngineKind> {
 protected:
  TempDir dir_;
  std::unique_ptr<FileEngine> engine_ = make_file_engine({.kind = GetParam()});
};

TEST_P(CheckpointTest, RoundTripBitForBit) {
  const auto path = save_sample(dir_ / "checkpoints", *engine_, 12);
  EXPECT_EQ(path, dir_ / "checkpoints/ckpt-12");
  const auto reader = CheckpointReader::open(path, {*engine_, {}});
  EXPECT_EQ(reader.step(), 12);
  EXPECT_EQ(reader.uuid().size(), 32u);
  EXPECT_EQ(reader.path(), path);
  EXPECT_EQ(reader.tensors().size(), sample_tensors().size());
  for (const CheckpointTensor& tensor : sample_tensors()) {
    const CheckpointTensor* found = reader.find(tensor.name, tensor.slot);
    ASSERT_NE(found, nullptr) << tensor.name;
    EXPECT_EQ(*found, tensor);
  }
  EXPECT_TRUE(holds_sample(reader));
  EXPECT_EQ(reader.find("one", "master"), nullptr);
}

INSTANTIATE_TEST_SUITE_P(Engines, CheckpointTest,
                         ::testing::Values(FileEngineKind::kAuto, FileEngineKind::kThreads),
                         [](const auto& info) {
                           return info.param == FileEngineKind::kAuto ? "automatic" : "threads";
                         });

class CheckpointFileTest : public ::testing::Test {
 protected:
  TempDir dir_;
  std::unique_ptr<FileEngine> engine_ = make_file_engine();
};

TEST_F(CheckpointFileTest, RangesInAnyOrderAndManyBlocks) {
  // 9 MiB and a bit: three blocks, with a scratch of one, two and three blocks and one from the
  // heap.
  const CheckpointTensor tensor{"w", "master", DType::kU8, {(9 << 20) + 5}, false};
  const auto data = random_bytes((9 << 20) + 5, 5);
  std::vector<std::byte> scratch(3 * static_cast<std::size_t>(kCheckpointBlockBytes));
  for (const std::size_t blocks : {0, 1, 2, 3}) {
    const CheckpointIo io{*engine_, std::span(scratch).first(blocks * kCheckpointBlockBytes)};
    CheckpointWriter writer(io, dir_.path(), {static_cast<std::int64_t>(blocks), "", {tensor}});
    const std::span<const std::byte> all = data;
    writer.write("w", "master", 5'000'000, all.subspan(5'000'000));
    writer.write("w", "master", 0, all.first(1));
    writer.write("w", "master", 3, all.subspan(3, 4'999'997));
    writer.write("w", "master", 1, all.subspan(1, 2));
    writer.write("w", "master", 0, {});
    const auto reader = CheckpointReader::open(writer.commit(), io);
    std::vector<std::byte> back(data.size());
    reader.read("w", "master", 0, back);
    EXPECT_TRUE(back == data);
    std::vector<std::byte> middle(100);
    reader.read("w", "master", 4'999'950, middle);
    EXPECT_TRUE(std::equal(middle.begin(), middle.end(), data.begin() + 4'999'950));
    EXPECT_EQ(reader.metadata(), "");
  }
}

TEST_F(CheckpointFileTest, WithoutTensors) {
  CheckpointWriter writer({*engine_, {}}, dir_.path(), {0, "{}", {}});
  const auto reader = CheckpointReader::open(writer.commit(), {*engine_, {}});
  EXPECT_TRUE(reader.tensors().empty());
  reader.require({});
}

/// Reads a dataset with plain HDF5, in the file's own type.
std::vector<std::byte> read_with_hdf5(const std::filesystem::path& file, const std::string& name,
                                      std::vector<hsize_t>& dims) {
  const hid_t id = H5Fopen(file.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const hid_t dataset = H5Dopen2(id, name.c_str(), H5P_DEFAULT);
  const hid_t type = H5Dget_type(dataset);
  const hid_t space = H5Dget_space(dataset);
  dims.resize(static_cast<std::size_t>(H5Sget_simple_extent_ndims(space)));
  H5Sget_simple_extent_dims(space, dims.data(), nullptr);
  std::vector<std::byte> bytes(H5Tget_size(type) *
                               static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
  EXPECT_GE(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data()), 0);
  H5Sclose(space);
  H5Tclose(type);
  H5Dclose(dataset);
  H5Fclose(id);
  return bytes;
}

TEST_F(CheckpointFileTest, PlainHdf5ReadsTheSameBytes) {
  const auto path = save_sample(dir_.path(), *engine_, 3) / "data-0.h5";
  for (const CheckpointTensor& tensor : sample_tensors()) {
    std::vector<hsize_t> dims;
    const auto bytes = read_with_hdf5(path, "/params/" + tensor.name + "/" + tensor.slot, dims);
    EXPECT_EQ(bytes, sample_bytes(tensor, 3)) << tensor.name;
    std::vector<hsize_t> expected(tensor.shape.begin(), tensor.shape.end());
    if (tensor.transposed) std::reverse(expected.begin(), expected.end());
    EXPECT_EQ(dims, expected) << tensor.name;
  }
}

TEST_F(CheckpointFileTest, RequireNamesWhatDiffers) {
  const auto reader = CheckpointReader::open(save_sample(dir_.path(), *engine_, 1), {*engine_, {}});
  EXPECT_NO_THROW(reader.require(sample_tensors()));
  const auto message = [&](auto&& change) {
    auto tensors = sample_tensors();
    change(tensors);
    return testing::message_of<UserError>([&] { reader.require(tensors); });
  };
  const auto expect = [](const std::string& text, std::string_view part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
    EXPECT_NE(text.find("ckpt-1: the checkpoint is of another model"), std::string::npos) << text;
  };
  expect(message([](auto& t) { t.pop_back(); }), "1 tensor is not in this job (three.d/master)");
  expect(message([](auto& t) { t.clear(); }), "10 tensors are not in this job");
  expect(message([](auto& t) {
           t.push_back({"new", "master", DType::kF32, {2}, false});
         }),
         "1 tensor is missing (new/master)");
  expect(message([](auto& t) {
           t[0].shape = {13, 7};
         }),
         "'model.embed.weight/weight' is bf16 [7, 13] in it and bf16 [13, 7] in this job");
  expect(message([](auto& t) { t[0].dtype = DType::kF16; }), "f16 [7, 13] in this job");
  expect(message([](auto& t) { t[2].transposed = false; }), "f32 [5, 300] transposed in it");
}

TEST_F(CheckpointFileTest, MisuseIsALogicErrorAndLeavesNothing) {
  {
    CheckpointWriter writer({*engine_, {}}, dir_.path(), sample_contents(1));
    const std::vector<std::byte> four(4), eight(8);
    EXPECT_THROW(writer.write("nobody", "master", 0, four), LogicError);
    EXPECT_THROW(writer.write("one", "exp_avg_sq", 0, eight), LogicError);
    EXPECT_THROW(writer.write("one", "exp_avg_sq", 1, four), LogicError);
    EXPECT_THROW(writer.write("one", "exp_avg_sq", -1, four), LogicError);
    writer.write("one", "exp_avg_sq", 0, four);
    EXPECT_THROW(writer.write("one", "exp_avg_sq", 0, four), LogicError);
    writer.write("bytes", "codes", 10, eight);
    EXPECT_THROW(writer.write("bytes", "codes", 3, eight), LogicError);
    EXPECT_THROW(writer.write("bytes", "codes", 17, eight), LogicError);
    EXPECT_THROW(writer.commit(), LogicError);
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir_.path()));
  for (const CheckpointTensor& bad : {CheckpointTensor{"a/b", "master", DType::kF32, {1}, false},
                                      CheckpointTensor{"a", "", DType::kF32, {1}, false},
                                      CheckpointTensor{".", "master", DType::kF32, {1}, false},
                                      CheckpointTensor{"a", "master", DType::kF32, {-1}, false},
                                      CheckpointTensor{"a", "master", DType::kF32, {}, true}}) {
    EXPECT_THROW(CheckpointWriter({*engine_, {}}, dir_.path(), {1, "", {bad}}), LogicError);
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir_.path()));
}

TEST_F(CheckpointFileTest, SavingAStepAgainReplacesIt) {
  const auto path = save_sample(dir_.path(), *engine_, 4);
  const auto first = CheckpointReader::open(path, {*engine_, {}}).uuid();
  EXPECT_EQ(save_sample(dir_.path(), *engine_, 4), path);
  EXPECT_NE(CheckpointReader::open(path, {*engine_, {}}).uuid(), first);
  EXPECT_FALSE(std::filesystem::exists(dir_ / "ckpt-4.tmp"));
}

TEST_F(CheckpointFileTest, AnUnwritableDirectoryIsASystemError) {
  testing::write_bytes(dir_ / "file", "x");
  EXPECT_THROWS_WITH(SystemError, "cannot create",
                     CheckpointWriter({*engine_, {}}, dir_ / "file", sample_contents(1)));
}

TEST(CheckpointStream, SeveralBlocksAtTheRateThatIsAllowed) {
  const TempDir dir;
  const auto engine = make_file_engine();
  const CheckpointTensor tensor{
      "wide", "master", DType::kU8, {3, (std::int64_t{3} << 20) + 7}, false};
  const std::vector<std::byte> bytes = testing::sample_bytes(tensor, 1);
  const auto begin = std::chrono::steady_clock::now();
  CheckpointWriter writer({*engine, {}, 40'000'000}, dir.path(), {1, "{}", {tensor}});
  const std::int64_t offset = writer.place_of("wide", "master").offset;
  const auto last = static_cast<std::int64_t>(bytes.size()) - 1;
  writer.written_elsewhere("wide", "master", 0, last);
  EXPECT_THROW(writer.write_all([](std::int64_t, std::span<std::byte> b) { return crc32c(b); }),
               LogicError)
      << "a byte is nobody's";
  writer.written_elsewhere("wide", "master", last, 1);
  const std::filesystem::path path =
      writer.write_all([&](std::int64_t at, std::span<std::byte> block) {
        const std::int64_t from = std::max(at, offset);
        const std::int64_t to = std::min(at + static_cast<std::int64_t>(block.size()),
                                         offset + static_cast<std::int64_t>(bytes.size()));
        if (from < to)
          std::copy_n(bytes.begin() + (from - offset), to - from, block.begin() + (from - at));
        return crc32c(block);
      });
  // Two blocks came before the last one.
  EXPECT_GE(std::chrono::steady_clock::now() - begin,
            std::chrono::milliseconds(2 * 4'194'304 / 40'000));
  const CheckpointReader reader = CheckpointReader::open(path, {*engine, {}});
  std::vector<std::byte> read(bytes.size());
  reader.read("wide", "master", 0, read);
  EXPECT_EQ(read, bytes);
}

}  // namespace
}  // namespace thimble
