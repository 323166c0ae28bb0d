// Label the pixels of a photo: segment MODEL.xml PHOTO LABELS.png
#include <iostream>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <openvino/openvino.hpp>
#include <sstream>
using namespace std;

int main(int, char** argv) {
    ov::Core core;
    auto model = core.read_model(argv[1]);
    auto meta = [&](string name) { return model->get_rt_info<string>(name); };
    istringstream scale(meta("resize.scale")), lines(meta("classes"));
    vector<string> classes;
    for (string line; getline(lines, line);) classes.push_back(line);

    cv::Mat image = cv::imread(argv[2]), resized;  // BGR, turned by its EXIF orientation
    double width = image.cols, height = image.rows, w, h;
    scale >> w >> h;
    if (meta("resize.rule") == "keep_ratio") {
        double factor = min(max(w, h) / max(width, height), min(w, h) / min(width, height));
        w = int(width * factor + 0.5), h = int(height * factor + 0.5);
    } else CV_Assert(meta("resize.rule") == "exact");
    CV_Assert(meta("resize.interpolation") == "bilinear" && meta("resize.backend") == "cv2");
    CV_Assert(meta("crop.rule") == "none" && meta("pad.rule") == "none");
    CV_Assert(meta("slide.rule") == "none");
    CV_Assert(min(w, h) >= stoi(meta("input.min_size")));
    cv::resize(image, resized, cv::Size(w, h));

    ov::preprocess::PrePostProcessor steps(model);  // takes 8 bits and channels last
    steps.input().tensor().set_element_type(ov::element::u8).set_layout("NHWC");
    steps.input().model().set_layout("NCHW");
    core.set_property("CPU", ov::hint::inference_precision(ov::element::f32));
    auto request = core.compile_model(steps.build(), "CPU").create_infer_request();
    request.set_input_tensor({ov::element::u8, {1, size_t(h), size_t(w), 3}, resized.data});
    request.infer();

    auto logits = request.get_tensor("logits");  // (1, classes, h, w)
    cv::Mat best(image.size(), CV_32F, -INFINITY), labels(image.size(), CV_8U), scores;
    for (size_t i = 0; i < classes.size(); i++) {
        cv::Mat small(h, w, CV_32F, logits.data<float>() + i * resized.total());
        cv::resize(small, scores, image.size());
        labels.setTo(i, scores > best);
        cv::max(scores, best, best);
    }
    cv::imwrite(argv[3], labels);
    for (size_t i = 0; i < classes.size(); i++)
        if (int count = cv::countNonZero(labels == i))
            cout << classes[i] << " " << 100.0 * count / labels.total() << "%\n";
}
