// libFuzzer target: any bytes as the .metadata of a checkpoint of torch.distributed, beside the
// data files of the one in tests/fixtures, either give arrays, all of whose values can be read, or
// raise a UserError.
#include <cstdint>

#include "launcher/convert/open_image.h"
#include "tests/fuzz/checkpoint_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace thimble;
  static const CheckpointFolder folder;
  for (const char* name : {"__0_0.distcp", "__1_0.distcp"}) {
    if (std::filesystem::exists(folder.path() / name)) continue;
    std::filesystem::copy(std::filesystem::path(THIMBLE_FIXTURES) / "checkpoints/fsdp2" / name,
                          folder.path() / name);
  }
  folder.put(".metadata", std::as_bytes(std::span(data, size)));
  return refuses_or_reads([] { read_all(open_image(folder.path())); });
}
