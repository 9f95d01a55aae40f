// Data files that are not what they claim, each under a manifest whose checksums match: HDF5 must
// never crash the process or print, and every outcome is a UserError or a readable checkpoint.
#include <gtest/gtest.h>
#include <hdf5.h>

#include <functional>

#include "checkpoint/block_checksums.h"
#include "checkpoint/checkpoint_reader.h"
#include "core/base/error.h"
#include "tests/checkpoint/sample_checkpoint.h"

namespace thimble {
namespace {

using testing::message_of;
using testing::read_bytes;
using testing::save_sample;
using testing::TempDir;
using testing::write_bytes;

class HostileHdf5Test : public ::testing::Test {
 protected:
  /// Writes a manifest that fits the data file as it is now.
  void reseal() {
    Manifest manifest = manifest_;
    const File file = File::open_read(data_);
    manifest.file_bytes = file.size();
    manifest.checksums = block_checksums({*engine_, {}}, file, manifest.file_bytes);
    std::erase_if(manifest.tensors, [&](const ManifestTensor& tensor) {
      return tensor.offset + tensor.bytes > manifest.file_bytes;
    });
    write_bytes(path_ / kManifestName, manifest_text(manifest));
  }
  std::string refusal() {
    return message_of<UserError>([&] { CheckpointReader::open(path_, {*engine_, {}}); });
  }
  void expect_refused(std::string_view text) {
    const std::string message = refusal();
    EXPECT_NE(message.find(text), std::string::npos) << message;
    EXPECT_NE(message.find("data-0.h5"), std::string::npos) << message;
  }
  /// Changes the file through HDF5, reseals it and expects the refusal.
  void expect_refused_after(const std::function<void(hid_t file)>& change, std::string_view text) {
    write_bytes(data_, original_);
    const hid_t file = H5Fopen(data_.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    ASSERT_GE(file, 0);
    change(file);
    H5Fclose(file);
    reseal();
    expect_refused(text);
  }

  TempDir dir_;
  std::unique_ptr<FileEngine> engine_ = make_file_engine({.kind = FileEngineKind::kThreads});
  std::filesystem::path path_ = save_sample(dir_.path(), *engine_, 7);
  std::filesystem::path data_ = path_ / "data-0.h5";
  std::string original_ = read_bytes(data_);
  Manifest manifest_ = parse_manifest(read_bytes(path_ / "MANIFEST"), "MANIFEST");
};

TEST_F(HostileHdf5Test, GarbageAndTruncation) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{100'000}}) {
    const auto bytes = testing::random_bytes(size, 3);
    write_bytes(data_, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    reseal();
    expect_refused("the file is not HDF5");
  }
  for (std::size_t size = 1; size < original_.size(); size += 1009) {
    write_bytes(data_, original_.substr(0, size));
    reseal();
    expect_refused("not a readable checkpoint file");
  }
}

TEST_F(HostileHdf5Test, FlippedMetadataNeverCrashes) {
  // In a process of its own: on some of these files the library leaks memory of its own.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto read_flipped_files = [this] {
    const File data = File::open_read_write(data_);
    const File manifest = File::open_read_write(path_ / kManifestName);
    const auto size = static_cast<std::int64_t>(original_.size());
    int refused = 0;
    for (std::int64_t i = 0; i < size; i += i < 4096 ? 19 : 199) {
      const auto original = static_cast<std::byte>(original_[static_cast<std::size_t>(i)]);
      const std::byte changed = ~original;
      data.write_at(i, std::span(&changed, 1));
      manifest_.checksums = block_checksums({*engine_, {}}, data, size);
      const std::string text = manifest_text(manifest_);
      manifest.write_at(0, std::as_bytes(std::span(text)));
      refused += refusal() != "(nothing was thrown)" ? 1 : 0;
      data.write_at(i, std::span(&original, 1));
    }
    std::_Exit(refused > 0 ? 0 : 1);
  };
  EXPECT_EXIT(read_flipped_files(), ::testing::ExitedWithCode(0), "");
}

hid_t bytes_dataset(hid_t parent, const char* name, hid_t creation, hid_t type) {
  const hsize_t size = 16;
  const hid_t space = H5Screate_simple(1, &size, nullptr);
  const hid_t dataset = H5Dcreate2(parent, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  H5Sclose(space);
  return dataset;
}

TEST_F(HostileHdf5Test, ForeignStructures) {
  expect_refused_after([](hid_t file) { H5Ldelete(file, "/params", H5P_DEFAULT); },
                       "group 'params'");
  expect_refused_after([](hid_t file) { H5Ldelete(file, "/state/metadata", H5P_DEFAULT); },
                       "/state must hold metadata alone");
  expect_refused_after([](hid_t file) { H5Adelete(file, "step"); }, "attribute step is missing");
  expect_refused_after([](hid_t file) { H5Adelete(file, "format"); },
                       "attribute format is missing");
  expect_refused_after(
      [](hid_t file) {
        H5Lcreate_soft("/params/one", file, "/params/two", H5P_DEFAULT, H5P_DEFAULT);
      },
      "soft or external link");
  expect_refused_after(
      [](hid_t file) {
        H5Lcreate_external("/etc/passwd", "/", file, "/params/two", H5P_DEFAULT, H5P_DEFAULT);
      },
      "soft or external link");
  expect_refused_after([](hid_t file) { H5Ldelete(file, "/params/one", H5P_DEFAULT); },
                       "the tensors in it are not those of its manifest");
  expect_refused_after(
      [](hid_t file) { H5Dclose(bytes_dataset(file, "/params/flat", H5P_DEFAULT, H5T_STD_U8LE)); },
      "group 'flat'");
  expect_refused_after(
      [](hid_t file) {
        H5Dclose(bytes_dataset(file, "/params/one/late", H5P_DEFAULT, H5T_STD_U8LE));
      },
      "dataset 'one/late' of 16 bytes does not lie in the file's");
  expect_refused_after(
      [](hid_t file) {
        H5Dclose(bytes_dataset(file, "/params/one/x", H5P_DEFAULT, H5T_IEEE_F64LE));
      },
      "dataset 'one/x' has a type other than");
}

TEST_F(HostileHdf5Test, StorageOutsideTheFile) {
  expect_refused_after(
      [](hid_t file) {
        const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
        H5Pset_external(creation, "/etc/passwd", 0, 16);
        H5Dclose(bytes_dataset(file, "/params/one/x", creation, H5T_STD_U8LE));
        H5Pclose(creation);
      },
      "dataset 'one/x' is not contiguous in this file");
  expect_refused_after(
      [](hid_t file) {
        const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
        const hsize_t chunk = 4;
        H5Pset_chunk(creation, 1, &chunk);
        H5Dclose(bytes_dataset(file, "/params/one/x", creation, H5T_STD_U8LE));
        H5Pclose(creation);
      },
      "dataset 'one/x' is not contiguous in this file");
}

TEST_F(HostileHdf5Test, UnknownMajorVersionIsRefused) {
  expect_refused_after(
      [](hid_t file) {
        const hid_t attribute = H5Aopen(file, "format_major", H5P_DEFAULT);
        const std::int64_t two = 2;
        H5Awrite(attribute, H5T_NATIVE_INT64, &two);
        H5Aclose(attribute);
      },
      "format version 2 is not known; 1 is");
}

}  // namespace
}  // namespace thimble
