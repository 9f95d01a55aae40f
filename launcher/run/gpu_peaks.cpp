#include "launcher/run/gpu_peaks.h"

#include <array>

namespace thimble {
namespace {

struct Peak {
  const char* name;
  double tflops;
};
// The first name that fits counts, so longer names come first.
constexpr std::array kPeaks{
    Peak{"B200", 2250},    Peak{"GH200", 989.4}, Peak{"H200", 989.4},     Peak{"H100 PCIe", 756},
    Peak{"H100 NVL", 835}, Peak{"H100", 989.4},  Peak{"H800", 989.4},     Peak{"A100", 312},
    Peak{"A800", 312},     Peak{"L40S", 362},    Peak{"L40", 181},        Peak{"L4", 121},
    Peak{"A40", 149.7},    Peak{"A10", 125},     Peak{"RTX 5090", 209.5}, Peak{"RTX 4090", 165.2},
    Peak{"RTX 3090", 71},
};

}  // namespace

std::optional<double> datasheet_bf16_flops(const std::string& gpu) {
  for (const Peak& peak : kPeaks) {
    if (gpu.find(peak.name) != std::string::npos) return peak.tflops * 1e12;
  }
  return std::nullopt;
}

}  // namespace thimble
